"""Starting again in the same output folder: go on, be finished, or say why not."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.common.messages import Message
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.checks.layout import NO_OVERLAP
from megatron_patch.launch.driver import main, make_plan
from megatron_patch.launch.plan import Plan, content_of
from megatron_patch.launch.problems import Problem, driver_wording, render
from megatron_patch.launch.resume import _held_out_anew, _rows_anew, read_earlier
from megatron_patch.runs.folder import write_plan

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture
def again(
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    mcore: Callable[..., None],
    tmp_path: Path,
) -> Callable[..., tuple[Plan | None, list[Problem]]]:
    """A first start that saved iteration 4 of 10, then a second one with changes."""
    output = tmp_path / "out"
    first, _, problems = make_plan(values(OUTPUT_BASEPATH=str(output)), surroundings(), dry_run=True)
    assert first is not None, problems
    output.mkdir()
    write_plan(output, content_of(first))
    mcore(output / "checkpoints", "4")

    def second(**changes: str) -> tuple[Plan | None, list[Problem]]:
        environ = {name: changes.pop(name) for name in list(changes) if name.startswith("MP_")}
        plan, _, problems = make_plan(
            values(**{"OUTPUT_BASEPATH": str(output)} | changes), surroundings(**environ), dry_run=True
        )
        return plan, problems

    return second


def test_the_same_command_goes_on(again: Callable[..., tuple[Plan | None, list[Problem]]], tmp_path: Path) -> None:
    plan, problems = again()
    assert plan is not None, problems
    assert (plan.resume_iteration, plan.finished) == (4, False)
    argv = megatron_argv(plan)
    assert argv[argv.index("--load") + 1] == argv[argv.index("--save") + 1] == str(tmp_path / "out" / "checkpoints")
    assert argv[argv.index("--ckpt-step") + 1] == "4"
    assert not {"--finetune", "--no-load-optim", "--no-load-rng", "--hf-checkpoint"} & set(argv)
    assert not [note for note in plan.notes if note.code.startswith("changed")]


@pytest.mark.parametrize("link", [True, False])
def test_a_branch_begins_from_a_linked_or_copied_checkpoint(
    link: bool, again: Callable[..., tuple[Plan | None, list[Problem]]], tmp_path: Path
) -> None:
    """As examples/llama3_1/README.md says: the other run's optimizer and place, other data, its own folder."""
    run, branch = tmp_path / "out", tmp_path / "branch"
    (branch / "checkpoints").mkdir(parents=True)
    source, target = run / "checkpoints" / "iter_0000004", branch / "checkpoints" / "iter_0000004"
    if link:
        target.symlink_to(source)
    else:
        shutil.copytree(source, target)
    shutil.copy(run / "plan.json", branch)
    plan, problems = again(OUTPUT_BASEPATH=str(branch), DATASET_PATH="more", MP_LR_DECAY_STYLE="WSD")
    assert plan is not None, problems
    argv = megatron_argv(plan)
    assert (plan.resume_iteration, argv[argv.index("--load") + 1]) == (4, str(branch / "checkpoints"))
    assert {note.values["name"] for note in plan.notes if note.code.startswith("changed")} >= {"DATASET_PATH"}


def test_first_weights_are_not_loaded_again(again: Callable[..., tuple[Plan | None, list[Problem]]]) -> None:
    plan, problems = again(PRETRAIN_CHECKPOINT_PATH="hf-tiny")
    assert plan is not None, problems
    assert "--hf-checkpoint" not in megatron_argv(plan)
    assert Message("weights-not-read") in plan.notes


def test_the_newest_whole_checkpoint_counts(
    again: Callable[..., tuple[Plan | None, list[Problem]]], mcore: Callable[..., None], tmp_path: Path
) -> None:
    checkpoints = tmp_path / "out" / "checkpoints"
    mcore(checkpoints, "6")
    mcore(checkpoints, "8")
    (checkpoints / "iter_0000008" / "metadata.json").write_text("")
    (checkpoints / ".incomplete_iter_0000009").mkdir()
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("4")
    plan, problems = again()
    assert plan is not None, problems
    assert plan.resume_iteration == 6
    assert any("iter_0000008, .incomplete_iter_0000009" in str(note) for note in plan.notes)


@pytest.mark.parametrize("done", ["10", "12"])
def test_a_finished_run_says_so_and_ends_with_0(
    done: str,
    again: Callable[..., tuple[Plan | None, list[Problem]]],
    mcore: Callable[..., None],
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def started(*command: object) -> None:
        raise AssertionError("torchrun was started")

    monkeypatch.setattr("os.execve", started)
    mcore(tmp_path / "out" / "checkpoints", done)
    assert main(values(OUTPUT_BASEPATH=str(tmp_path / "out")), surroundings()) == 0
    assert f"finished: iteration {done} of 10 is done and saved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "name", "before", "why"),
    [
        ({"LR": "2e-3"}, "LR", "0.001", "fixed-lr"),
        ({"MIN_LR": "0"}, "MIN_LR", "0.0001", "fixed-lr"),
        ({"SEQ_LEN": "64", "PAD_LEN": "64"}, "SEQ_LEN", "128", "fixed-count"),
        ({"PR": "bf16"}, "PR", "fp32", "fixed-optimizer"),
        ({"DO": "true"}, "DO", "false", "fixed-optimizer"),
        ({"MP_ADAM_BETA2": "0.9"}, "MP_ADAM_BETA2", "0.95", "fixed-betas"),
        ({"MP_ADAM_EPS": "1e-7"}, "MP_ADAM_EPS", "1e-08", "fixed-betas"),
    ],
)
def test_what_a_checkpoint_has_fixed(
    changes: dict[str, str], name: str, before: str, why: str, again: Callable[..., tuple[Plan | None, list[Problem]]]
) -> None:
    plan, problems = again(**changes)
    assert plan is None
    (problem,) = [problem for problem in problems if problem.names == (name,)]
    assert problem.code == "fixed-by-checkpoint"
    assert problem.message.values == {"before": before, "why": Message(why)}


@pytest.fixture
def over_adapters(
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    mcore: Callable[..., None],
    tmp_path: Path,
) -> Callable[..., list[Problem]]:
    """What is wrong with a second start, with changes, in the folder of adapters that were saved at iteration 4."""
    output = tmp_path / "lora"
    given = {"OUTPUT_BASEPATH": str(output), "PRETRAIN_CHECKPOINT_PATH": "hf-tiny"}
    first, _, problems = make_plan(values(**given), surroundings(MP_LORA_RANK="8", MP_LORA_TARGETS="v,q"), dry_run=True)
    assert first is not None, problems
    output.mkdir()
    write_plan(output, content_of(first))
    mcore(output / "checkpoints", "4")

    def second(environ: dict[str, str], **changes: str) -> list[Problem]:
        return make_plan(values(**given, **changes), surroundings(**environ), dry_run=True)[2]

    return second


@pytest.mark.parametrize(
    ("environ", "changes", "name"),
    [
        ({"MP_LORA_RANK": "8", "MP_LORA_TARGETS": "v,q"}, {"LR": "2e-3"}, "LR"),
        ({"MP_LORA_RANK": "8", "MP_LORA_TARGETS": "q"}, {}, "MP_LORA_TARGETS"),
        ({"MP_LORA_RANK": "8", "MP_LORA_TARGETS": "q,v", "MP_LORA_ALPHA": "8"}, {}, "MP_LORA_ALPHA"),
    ],
)
def test_adapters_go_on_as_adapters(
    over_adapters: Callable[..., list[Problem]], environ: dict[str, str], changes: dict[str, str], name: str
) -> None:
    """Not as PRETRAIN_CHECKPOINT_PATH, which refuses them: they are not a whole model."""
    (problem,) = over_adapters(environ, **changes)
    assert (problem.code, problem.names) == ("fixed-by-adapters", (name,))
    for language in ("en", "zh"):
        said = render(problem, {}, driver_wording(language))
        assert "MP_LORA_ADAPTER" in said and "PRETRAIN_CHECKPOINT_PATH" not in said


def test_adapters_are_the_same_however_they_are_given(over_adapters: Callable[..., list[Problem]]) -> None:
    assert over_adapters({"MP_LORA_RANK": "8", "MP_LORA_TARGETS": "q,v", "MP_LORA_ALPHA": "16"}) == []
    assert over_adapters({"MP_LORA_RANK": "8", "MP_LORA_TARGETS": "v_proj, q_proj"}) == []


def test_batches_of_the_past_are_fixed_and_those_to_come_may_grow(
    again: Callable[..., tuple[Plan | None, list[Problem]]],
) -> None:
    """Four iterations of 8 x 128 tokens are done; the error says how to go on with 16, and that works."""
    plan, problems = again(GLOBAL_BATCH_SIZE="16")
    assert plan is None
    (problem,) = problems
    assert (problem.code, problem.names) == ("batches-of-the-past", ("GLOBAL_BATCH_SIZE",))
    assert problem.message.values == {"before": "8", "done": 4, "grown": "0:8,4096:16"}
    plan, problems = again(GLOBAL_BATCH_SIZE="16", MP_BATCH_SCHEDULE="0:8,4096:16")
    assert plan is not None, problems
    assert (plan.schedule.train_iters, plan.schedule.samples) == (7, 4 * 8 + 3 * 16)
    plan, problems = again(GLOBAL_BATCH_SIZE="16", MP_BATCH_SCHEDULE="0:8,2048:16")
    assert [problem.code for problem in problems] == ["batches-of-the-past"]


def test_another_schedule_is_taken_and_its_jump_is_told(
    again: Callable[..., tuple[Plan | None, list[Problem]]],
) -> None:
    """What is left follows the new curve; the next iteration's rate is told where it is not the old curve's."""
    plan, problems = again(MP_LR_DECAY_STYLE="constant")
    assert plan is not None, problems
    (jump,) = [note for note in plan.notes if note.code == "rate-jumps"]
    cosine = 1e-4 + 9e-4 * 0.5 * (math.cos(math.pi * 3 / 9) + 1)
    assert jump.values == {"iteration": 5, "before": pytest.approx(cosine), "now": 1e-3}
    assert [note.values["name"] for note in plan.notes if note.code == "changed-remark"] == ["MP_LR_DECAY_STYLE"]
    assert not [note for note in again()[0].notes if note.code == "rate-jumps"]  # type: ignore[union-attr]
    flags = " ".join(megatron_argv(plan))
    assert "--lr-decay-style constant" in flags and "--override-opt-param-scheduler" in flags


def test_other_held_out_texts_are_told(again: Callable[..., tuple[Plan | None, list[Problem]]]) -> None:
    """Of what was trained before, part is validation now."""

    def told(**changes: str) -> list[object]:
        plan, problems = again(VALID_DATASET_PATH="none", **changes)
        assert plan is not None, problems
        return [note.values["names"] for note in plan.notes if note.code == "held-out-anew"]

    assert told(MP_SPLIT="90,10") == [["MP_SPLIT"]]
    assert told() == []
    write_plan(Path(again()[0].output), content_of(again(VALID_DATASET_PATH="none", MP_SPLIT="90,10")[0]))  # type: ignore[union-attr, arg-type]
    assert told(MP_SPLIT="90,10") == told(MP_SPLIT="90,10", DATASET_PATH="text more") == []
    assert told(MP_SPLIT="80,20") == [["MP_SPLIT"]]


def test_conversations_in_other_rows_are_told() -> None:
    """The place in the data counts rows."""
    now = {"SFT": True, "MP_DATASET_TYPE": "raw", "CP": 1, "MP_SFT_PACKING": True, "MP_SFT_TURNS": "together"}

    def told(**before: object) -> list[object]:
        return [note.values["names"] for note in _rows_anew({**now, **before}, now)]

    assert told() == [] and told(CP=2) == [["CP"]] and told(MP_SFT_TURNS="one-by-one") == [["MP_SFT_TURNS"]]
    assert told(MP_SFT_PACKING=False, CP=2) == [["MP_SFT_PACKING", "CP"]]
    now["MP_SFT_PACKING"] = False
    assert told(CP=2) == []
    now |= {"MP_DATASET_TYPE": "idxmap"}
    assert told(MP_SFT_TURNS="one-by-one") == []


def test_conversations_are_held_out_by_their_number() -> None:
    """Other data, or other rows that are used, hold out others."""
    now = {"MP_SPLIT": "90,10", "DATASET_PATH": "b", "MP_SFT_OVERLONG": "drop", "SFT": True}
    before = {**now, "DATASET_PATH": "a", "MP_SFT_OVERLONG": "truncate"}
    assert list(_held_out_anew(now, now)) == []
    assert list(_held_out_anew(before, {**now, "MP_SPLIT": None})) == []
    (note,) = _held_out_anew(before, now)
    assert note.values["names"] == ["DATASET_PATH", "MP_SFT_OVERLONG"]


def test_another_model_is_told_by_what_differs(again: Callable[..., tuple[Plan | None, list[Problem]]]) -> None:
    plan, problems = again(MODEL_SIZE="1B")
    assert plan is None
    (problem,) = [problem for problem in problems if problem.code == "checkpoint-of-another-model"]
    assert problem.names == ("MODEL_SIZE", "OUTPUT_BASEPATH")
    assert problem.message.values["model"] == "tiny"
    assert Message("differs", field="num_layers", before=4, now=16) in problem.message.values["differences"]


def test_tiny_and_auto_are_one_model(again: Callable[..., tuple[Plan | None, list[Problem]]]) -> None:
    """The one takes its vocabulary from the tokenizer, the other from config.json: the rows of the embedding tell."""
    plan, problems = again(MODEL_SIZE="auto", PRETRAIN_CHECKPOINT_PATH="hf-tiny")
    assert plan is not None, problems
    assert (plan.model.vocab_size, plan.resume_iteration) == (258, 4)


@pytest.mark.parametrize(
    ("changes", "before", "now", "remark"),
    [
        ({"TRAIN_TOKENS_OR_ITERS": "20480"}, "10240", "20480", "changed-train"),
        ({"WARMUP_TOKENS_OR_ITERS": "0"}, "1024", "0", "changed-warmup"),
        ({"TP": "2"}, "1", "2", "changed-layout"),
        ({"DATASET_PATH": "more"}, None, None, "changed-data"),
        ({"MP_SEED": "5"}, "1234", "5", "changed-seed"),
        ({"MP_WEIGHT_DECAY": "0"}, "0.1", "0.0", None),
        ({"SAVE_INTERVAL": "5"}, "100", "5", None),
    ],
)
def test_what_may_change_is_said(
    changes: dict[str, str],
    before: str | None,
    now: str | None,
    remark: str | None,
    again: Callable[..., tuple[Plan | None, list[Problem]]],
) -> None:
    plan, problems = again(**changes)
    assert plan is not None, problems
    (note,) = [note for note in plan.notes if note.values.get("name") in changes and note.code.startswith("changed")]
    if before is not None:
        assert (note.values["before"], note.values["now"]) == (before, now)
    assert note.values.get("remark") == (None if remark is None else Message(remark))


def test_without_a_checkpoint_everything_may_change(
    again: Callable[..., tuple[Plan | None, list[Problem]]], tmp_path: Path
) -> None:
    checkpoints = tmp_path / "out" / "checkpoints"
    shutil.rmtree(checkpoints)
    (checkpoints / ".incomplete_iter_0000002").mkdir(parents=True)  # killed in its first save
    (checkpoints / "iter_0000002").mkdir()  # Megatron reserves the name
    plan, problems = again(LR="2e-3", PR="bf16")
    assert plan is not None, problems
    assert plan.resume_iteration is None


@pytest.mark.parametrize("what", ["damaged", "removed", "set aside"])
def test_a_run_does_not_begin_anew_over_its_checkpoints(
    what: str, again: Callable[..., tuple[Plan | None, list[Problem]]], tmp_path: Path
) -> None:
    checkpoints = tmp_path / "out" / "checkpoints"
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("4")
    if what == "damaged":
        (checkpoints / "iter_0000004" / "metadata.json").unlink()
    elif what == "removed":
        shutil.rmtree(checkpoints / "iter_0000004")
    else:
        (checkpoints / "latest_checkpointed_iteration.txt").unlink()
        (checkpoints / "iter_0000004").rename(checkpoints / "damaged_iter_0000004")
    plan, problems = again()
    assert plan is None
    assert [problem.code for problem in problems] == ["checkpoints-lost"]


@pytest.mark.parametrize("tracker", ["", "garbage", "99", None])
def test_stray_names_and_trackers_mislead_nobody(
    tracker: str | None,
    again: Callable[..., tuple[Plan | None, list[Problem]]],
    mcore: Callable[..., None],
    tmp_path: Path,
) -> None:
    checkpoints = tmp_path / "out" / "checkpoints"
    mcore(checkpoints, "6")
    shutil.copytree(checkpoints / "iter_0000006", checkpoints / "iter_99999999999999999999")
    (checkpoints / "iter_0000007").write_text("a file")
    (checkpoints / ".incomplete_x").write_text("")
    if tracker is None:
        (checkpoints / "latest_checkpointed_iteration.txt").unlink(missing_ok=True)
    else:
        (checkpoints / "latest_checkpointed_iteration.txt").write_text(tracker)
    plan, problems = again()
    assert plan is not None, problems
    assert plan.resume_iteration == 6


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"version": 3}', "[" * 100_000])
def test_without_a_plan_it_is_said(
    content: str | None, again: Callable[..., tuple[Plan | None, list[Problem]]], tmp_path: Path
) -> None:
    (tmp_path / "out" / "plan.json").unlink()
    if content is not None:
        (tmp_path / "out" / "plan.json").write_text(content)
    plan, problems = again()
    assert plan is not None, problems
    assert plan.resume_iteration == 4
    (note,) = [note for note in plan.notes if note.code == "no-earlier-plan"]
    why = note.values["why"]
    assert isinstance(why, Message)
    assert why == Message("no-plan") if content is None else "plan.json: not used" in str(why)


def test_a_new_folder_is_empty(tmp_path: Path) -> None:
    earlier = read_earlier(str(tmp_path / "absent"))
    assert (earlier.iteration, earlier.broken, earlier.plan) == (None, (), None)


def test_plan_json_is_what_the_next_start_reads(again: Callable[..., object], tmp_path: Path) -> None:
    """The comparison above is of real content: all 25 positions stand in the file."""
    values = json.loads((tmp_path / "out" / "plan.json").read_text())["values"]
    assert len([name for name in values if not name.startswith("MP_")]) == 25


@pytest.mark.parametrize("spelt", [{"MP_VP": "2"}, {"MP_VP_CHUNKS": "2"}])
def test_a_run_of_the_first_version_goes_on(
    spelt: dict[str, str],
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    mcore: Callable[..., None],
    world: Path,
    tmp_path: Path,
) -> None:
    """Its MP_VP=2 counted chunks: the same command, or one in today's words, has not changed; another is a change."""
    output = tmp_path / "out"
    mcore(output / "checkpoints", "4")
    written = (GOLDEN / "plan_version_1.json").read_text().replace("/WORLD/out", str(output))
    (output / "plan.json").write_text(written.replace("/WORLD", str(world)))
    typed = values(OUTPUT_BASEPATH=str(output), PP="2", VALID_DATASET_PATH="none")
    plan, _, problems = make_plan(typed, surroundings(**spelt), dry_run=True)
    assert plan is not None, problems
    assert (plan.resume_iteration, plan.layout.chunks) == (4, 2)
    assert plan.vp_counts_chunks == ("MP_VP" in spelt)
    assert not [note for note in plan.notes if note.code.startswith("changed")], plan.notes
    write_plan(output, content_of(plan))  # the start after the next one means the same
    plan, _, problems = make_plan(typed, surroundings(**spelt), dry_run=True)
    assert plan is not None, problems
    assert plan.layout.chunks == 2
    plan, _, problems = make_plan(typed, surroundings(), dry_run=True)
    assert plan is not None, problems
    assert any(note.values.get("name") == "MP_VP_CHUNKS" and note.values["before"] == "2" for note in plan.notes)
    refused, _, problems = make_plan([*typed[:4], "2e-3", *typed[5:]], surroundings(**spelt), dry_run=True)
    assert refused is None and problems[0].names == ("LR",)
    (name,) = spelt
    for wrong, code in (({name: "3"}, "vp-chunks"), ({**spelt, "MP_MEGATRON_ARGS": NO_OVERLAP}, "vp-no-overlap")):
        refused, _, problems = make_plan(typed, surroundings(**wrong), dry_run=True)
        assert refused is None and (problems[0].code, problems[0].names[0]) == (code, name), "what was typed is named"
    odd = [*typed[:3], "9", *typed[4:]]
    refused, _, problems = make_plan(odd, surroundings(**spelt), dry_run=True)
    assert refused is None and (problems[0].code, problems[0].names[0]) == ("vp-micro-batches", name)
