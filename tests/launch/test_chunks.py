"""Chunks of a pipeline that nobody has asked for: two where they pay, and a run that goes on keeps its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.common.messages import Message
from megatron_patch.launch import advice, driver
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.checks.layout import NO_OVERLAP
from megatron_patch.launch.chunks import fitted, in_chunks, time_saved
from megatron_patch.launch.cluster.rendezvous import differences, identity
from megatron_patch.launch.memory import PLAIN_ADAM
from megatron_patch.launch.plan import Plan, content_of
from megatron_patch.launch.step_time import time_of_plan
from megatron_patch.runs.folder import write_plan

CUT = {"MODEL_SIZE": "8B", "PR": "bf16", "TP": "2", "PP": "2", "SP": "true", "DO": "true", "GLOBAL_BATCH_SIZE": "32"}
CUT |= {"SEQ_LEN": "8192", "PAD_LEN": "8192", "TRAIN_TOKENS_OR_ITERS": "99999999"}
H200 = {"gigabytes": 148, "gpus": 4, "name": "NVIDIA H200"}
NOTES = ("chunks-taken", "chunks-kept", "chunks-pay", "chunks-later")

Planned = Callable[..., Plan]


@pytest.fixture
def planned(plan_on_gpus: Planned) -> Planned:
    """A plan on four H200s, or other GPUs; `MP_...` are variables."""
    return lambda gpu=None, **changes: plan_on_gpus(H200 | (gpu or {}), **CUT | changes)


def said(plan: Plan) -> dict[str, Message]:
    """What the plan says of chunks."""
    return {note.code: note for note in plan.notes if note.code in NOTES}


def test_a_new_run_takes_two_where_they_pay(planned: Planned) -> None:
    """Measured on four H200s, 2026-11-27: 2.8 % of a step, 64.49 instead of 58.67 GB."""
    plan, one = planned(), planned(MP_VP_CHUNKS="1")
    assert (plan.layout.chunks, one.layout.chunks, said(one)) == (2, 1, {})
    assert content_of(plan)["values"]["MP_VP_CHUNKS"] == 2 and content_of(one)["values"]["MP_VP_CHUNKS"] is None
    assert "--pipeline-model-parallel-layout" in megatron_argv(plan)  # 17 and 15 layers, dealt over two chunks
    (note,) = said(plan).values()
    assert note.code == "chunks-taken"
    assert "MP_VP_CHUNKS=1" in str(note)
    assert plan.memory.total > one.memory.total
    for named, size in (("size", plan.memory.total), ("before", one.memory.total)):
        assert float(str(note.values[named]).split()[0]) == pytest.approx(size / 1e9, abs=0.06)
    times = time_of_plan(plan), time_of_plan(one)
    assert times[0] is not None and times[1] is not None
    assert float(str(note.values["percent"])) == pytest.approx(100 * (1 - times[0].total / times[1].total), abs=0.06)
    asked = planned(MP_VP_CHUNKS="2")
    assert (asked.layout, asked.memory, said(asked)) == (plan.layout, plan.memory, {})
    assert megatron_argv(asked) == megatron_argv(plan)


def test_gpus_that_are_not_here(planned: Planned) -> None:
    """Nothing can be predicted for them: a dry run shows one, and says that the machine itself may take two."""
    for changes, told in (({}, ["chunks-later"]), ({"MP_VP_CHUNKS": "1"}, []), ({"GLOBAL_BATCH_SIZE": "15"}, [])):
        plan = planned({"gpus": 0}, MP_DEVICE="cuda", MP_NPROC="4", **changes)
        assert (plan.layout.chunks, list(said(plan))) == (1, told)


@pytest.mark.parametrize(("pp", "chunks", "told"), [("2", "2", "ends-count-chunks"), ("4", "1", "ends-count")])
def test_layers_that_stages_divide_and_chunks_do_not(planned: Planned, pp: str, chunks: str, told: str) -> None:
    """126 layers: 63 a stage of two, but 128 in four parts."""
    plan = planned({"gpus": 0}, MODEL_SIZE="405B", PP=pp, MP_VP_CHUNKS=chunks, MP_DEVICE="cuda", MP_NPROC="8")
    assert [note.code for note in plan.notes if note.code.startswith("ends-count")] == [told]


@pytest.mark.parametrize("pp", ["4", "8"])
def test_longer_pipelines(planned: Planned, pp: str) -> None:
    plan = planned({"gpus": 8}, TP="1", PP=pp, SP="false")
    assert plan.layout.chunks == 2
    assert sum(plan.layout.chunk_layers()) == 32 and len(plan.layout.chunk_layers()) == 2 * int(pp)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"MP_BATCH_SCHEDULE": "0:16,819200:32"}, "chunks-taken", id="batch that grows"),
        pytest.param({"AC": "full", "MP_AC_LAYERS": "8"}, "chunks-taken", id="groups of a chunk"),
        pytest.param({"PR": "fp8"}, "chunks-taken", id="fp8"),
        pytest.param({"MP_PP_BALANCE": "false"}, "chunks-taken", id="even stages"),
        pytest.param({"TP": "1", "SP": "false", "PP": "2", "MODEL_SIZE": "qwen2_5-7B"}, "chunks-taken", id="28 layers"),
        pytest.param({"MP_MEGATRON_ARGS": "--log-params-norm"}, "chunks-taken", id="another flag"),
        pytest.param(
            {"MP_MEGATRON_ARGS": "--defer-embedding-wgrad-compute"}, "chunks-pay", id="a flag of the schedule"
        ),
        pytest.param({"MP_MEGATRON_ARGS": "--enable-cuda-graph"}, "chunks-pay", id="CUDA graphs by their older name"),
        pytest.param({"AC": "full", "MP_AC_METHOD": "block", "MP_AC_LAYERS": "4"}, "chunks-pay", id="of each stage"),
        pytest.param({"MP_LORA_RANK": "8", "PRETRAIN_CHECKPOINT_PATH": "hf-8B"}, "chunks-pay", id="adapters"),
    ],
)
def test_what_was_not_tried_is_said_to_pay(planned: Planned, changes: dict[str, str], code: str) -> None:
    plan = planned(**changes)
    assert (plan.layout.chunks, list(said(plan))) == (2 if code == "chunks-taken" else 1, [code])


def test_an_optimizer_that_may_move_and_need_not(planned: Planned) -> None:
    """OPTIMIZER_OFFLOAD=auto on GPUs that hold it all is no other run."""
    plan = planned(OPTIMIZER_OFFLOAD="auto")
    assert (plan.offload_fraction, plan.layout.chunks) == (0.0, 2)


@pytest.mark.parametrize(
    ("gpu", "changes"),
    [
        pytest.param({"gigabytes": 56}, {}, id="fits in one only"),
        pytest.param({}, {"PP": "1"}, id="no pipeline"),
        pytest.param({}, {"GLOBAL_BATCH_SIZE": "256"}, id="little to gain"),
        pytest.param({}, {"GLOBAL_BATCH_SIZE": "15"}, id="micro batches that PP does not divide"),
        pytest.param({}, {"MP_BATCH_SCHEDULE": "0:15,819200:32"}, id="nor those of the first stage"),
        pytest.param({"name": "some"}, {}, id="no prediction for this GPU"),
        pytest.param({}, {"PR": "fp16"}, id="nor for fp16"),
        pytest.param({}, {"AC": "offload"}, id="nor for activations in RAM"),
        pytest.param({}, {"OPTIMIZER_OFFLOAD": "static"}, id="the optimizer in RAM"),
        pytest.param({}, {"AC": "full", "MP_AC_LAYERS": "9"}, id="groups larger than a chunk"),
        pytest.param({}, {"MP_DEVICE": "cpu", "PR": "fp32"}, id="CPU"),
        pytest.param({}, {"MP_OPTIMIZER": "muon", "DO": "false"}, id="Muon"),
        pytest.param({}, {"MP_MEGATRON_ARGS": NO_OVERLAP}, id="Megatron refuses it"),
        pytest.param({"gpus": 8}, {"MP_MEGATRON_ARGS": NO_OVERLAP, "PP": "4"}, id="a stage waits for what it sends"),
        pytest.param({}, {"TP": "1", "SP": "false", "PP": "4", "MODEL_SIZE": "qwen2_5-7B"}, id="layers"),
    ],
)
def test_one_elsewhere(planned: Planned, gpu: dict[str, object], changes: dict[str, str]) -> None:
    plan = planned(gpu, **changes)
    assert plan.layout.chunks == 1
    assert not {"chunks-taken", "chunks-kept"} & set(said(plan))


def test_never_for_fewer_bits_of_the_optimizer(planned: Planned) -> None:
    """Between what one chunk takes and what two take: two would fit, with the state in fewer bits."""
    plan = planned({"gigabytes": 65})
    assert (plan.layout.chunks, plan.precision.adam, said(plan)) == (1, PLAIN_ADAM, {})
    layout = in_chunks(plan, 2)
    assert layout is not None and plan.memory_limit is not None
    chunked = fitted(plan, layout)
    assert chunked.precision.adam != PLAIN_ADAM and chunked.memory.total <= plan.memory_limit


@pytest.fixture
def going_on(planned: Planned, mcore: Callable[..., None], tmp_path: Path) -> Callable[..., Plan]:
    """The plan of the next start, of a run whose first had other values and saved a checkpoint."""

    def build(first: dict[str, str], gpu: dict[str, object] | None = None, **changes: str) -> Plan:
        output = tmp_path / "out"
        output.mkdir()
        write_plan(output, content_of(planned(OUTPUT_BASEPATH=str(output), **first)))
        mcore(output / "checkpoints", "4")
        plan = planned(gpu, OUTPUT_BASEPATH=str(output), **changes)
        assert plan.resume_iteration == 4
        return plan

    return build


@pytest.mark.parametrize(
    ("first", "changes", "chunks", "note"),
    [
        pytest.param({}, {}, 2, "chunks-kept", id="two, as it began"),
        pytest.param({"MP_VP_CHUNKS": "1"}, {}, 1, "chunks-pay", id="one, as before there was a choice"),
        pytest.param({"MP_VP_CHUNKS": "4"}, {}, 4, "chunks-kept", id="four, asked for at first"),
        pytest.param({"PR": "fp16", "MP_VP_CHUNKS": "2"}, {"PR": "fp16"}, 2, "chunks-kept", id="without a prediction"),
        pytest.param({}, {"MP_VP_CHUNKS": "1"}, 1, None, id="one, asked for now"),
        pytest.param({}, {"MP_VP": "4"}, 4, None, id="four, asked for now"),
        pytest.param({}, {"BATCH_SIZE": "32"}, 1, None, id="one micro batch, which PP does not divide"),
        pytest.param({"MP_VP_CHUNKS": "1"}, {"TP": "1", "SP": "false", "PP": "4"}, 2, "chunks-taken", id="other PP"),
        pytest.param({}, {"PP": "1"}, 1, None, id="no pipeline any more"),
        pytest.param({}, {"MP_MEGATRON_ARGS": NO_OVERLAP}, 1, None, id="a flag that excludes it"),
    ],
)
def test_a_run_that_goes_on_keeps_its_chunks(
    going_on: Callable[..., Plan], first: dict[str, str], changes: dict[str, str], chunks: int, note: str | None
) -> None:
    plan = going_on(first, **changes)
    assert plan.layout.chunks == chunks
    assert list(said(plan)) == ([note] if note else [])
    if not changes:
        assert not [one for one in plan.notes if one.code.startswith("changed")]


def test_chunks_that_wait_for_what_they_send_are_kept_too(going_on: Callable[..., Plan]) -> None:
    """Nobody would take them there; but Megatron runs them, in pipelines of more than two stages."""
    flags = {"MP_MEGATRON_ARGS": NO_OVERLAP, "TP": "1", "SP": "false", "PP": "4"}
    plan = going_on(flags | {"MP_VP_CHUNKS": "2"}, **flags)
    assert (plan.layout.chunks, list(said(plan))) == (2, ["chunks-kept"])


def test_kept_chunks_keep_no_run_from_starting(going_on: Callable[..., Plan]) -> None:
    """On smaller GPUs than it began on."""
    plan = going_on({}, {"gigabytes": 65})
    assert plan.layout.chunks == 1 and plan.memory_limit is not None
    assert plan.memory.total <= plan.memory_limit and not driver._refusals(plan, {})
    (change,) = [one for one in plan.notes if one.code == "changed"]
    told = {name: str(value) for name, value in change.values.items()}
    assert told == {"name": "MP_VP_CHUNKS", "before": "2", "now": "1"}


@pytest.mark.parametrize(("first", "now"), [("2", "1"), ("1", "2"), ("1", "4")])
def test_a_number_that_is_typed_is_not_called_unset(going_on: Callable[..., Plan], first: str, now: str) -> None:
    """Unset is not one any more: two may be taken."""
    plan = going_on({"MP_VP_CHUNKS": first}, MP_VP_CHUNKS=now)
    (change,) = [one for one in plan.notes if one.code == "changed"]
    assert str(change) == f"MP_VP_CHUNKS was {first} at the last start and is {now}"


def test_a_state_in_few_bits_is_kept_as_it_was(going_on: Callable[..., Plan]) -> None:
    """Asked for at first, in two chunks and the bits that this took; the same command without MP_VP_CHUNKS."""
    plan = going_on({"MP_VP_CHUNKS": "2", "MP_MOMENTS": "bf16"}, MP_MOMENTS="bf16")
    assert plan.layout.chunks == 2 and plan.precision.adam != PLAIN_ADAM


def test_machines_that_choose_otherwise_name_the_number(planned: Planned) -> None:
    """The GPUs of one have less memory; nobody has typed MP_VP_CHUNKS."""
    small, large = identity(planned({"gigabytes": 56})), identity(planned())
    assert [str(what) for what in differences(large, small)] == ["MP_VP_CHUNKS is 1 there, 2 here"]


def test_what_a_change_takes_is_counted_in_the_chunks_that_it_brings(planned: Planned) -> None:
    plan = planned(PP="1")
    change = advice.Change(words=Message("uncoded", text="PP 2"), pp=2, ranks=2)
    changed = planned({"gpus": 8}, PP="2")
    assert changed.layout.chunks == 2
    assert advice._figures(plan, change) == (changed.memory.total, changed.memory_limit)


def test_what_is_taken_is_what_was_predicted(planned: Planned) -> None:
    """The plan in two chunks is built once more from the typed values: nothing of it is another."""
    found = time_saved(planned(MP_VP_CHUNKS="1"))
    assert found is not None
    taken = planned()
    for row in ("layout", "precision", "gradient_bf16", "offload_fraction", "memory", "memory_limit"):
        assert getattr(found[1], row) == getattr(taken, row), row
    assert dataclasses.replace(found[1].variables, vp_chunks=None) == taken.variables
