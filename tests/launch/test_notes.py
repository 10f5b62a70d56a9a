"""What does not fit is refused, with a change that makes it fit: the change is made, and the plan then fits."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.common.machine import Gpu
from megatron_patch.common.messages import Message
from megatron_patch.launch import advice, driver
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.plan import Plan
from megatron_patch.runs import status as run_status

LONG = {"SEQ_LEN": "8192", "PAD_LEN": "8192", "GLOBAL_BATCH_SIZE": "16", "TRAIN_TOKENS_OR_ITERS": "99999999"}
CHANGED = ("DO", "BATCH_SIZE", "TP", "PP", "SP", "AC", "OPTIMIZER_OFFLOAD")

Planned = Callable[..., Plan]


@pytest.fixture
def planned(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Planned:
    """A plan on GPUs of a size, and why a real start would be refused."""

    def plan(
        gigabytes: int, gpus: int, changes: dict[str, str], name: str = "some", ram: int = 2000, **variables: str
    ) -> Plan:
        monkeypatch.setattr("megatron_patch.launch.environment.total_memory", lambda: ram * 10**9)
        gpu = Gpu(name=name, memory_bytes=gigabytes * 10**9, uuid="GPU-1")
        monkeypatch.setattr("megatron_patch.launch.environment.installed_gpus", lambda: (gpu,) * gpus)
        around = surroundings(MP_DEVICE="auto", **variables)
        found, _, problems = driver.make_plan(values(**LONG | changes), around, dry_run=True)
        assert found is not None, problems
        return found

    return plan


@pytest.mark.parametrize(
    ("gigabytes", "gpus", "changes", "code"),
    [
        (100, 8, {"MODEL_SIZE": "8B", "DO": "false"}, "change-do"),
        (96, 8, {"MODEL_SIZE": "8B", "BATCH_SIZE": "2"}, "change-batch"),
        (80, 8, {"MODEL_SIZE": "8B"}, "change-tp"),
        (100, 1, {"MODEL_SIZE": "8B"}, "change-ac"),
        (80, 1, {"MODEL_SIZE": "8B"}, "change-offload"),
        (80, 8, {"MODEL_SIZE": "70B", "TP": "8", "SP": "true"}, "change-offload"),
        (141, 8, {"MODEL_SIZE": "70B", "TP": "4", "SP": "true"}, "change-tp"),
        (46, 8, {"MODEL_SIZE": "8B"}, "change-tp"),  # TP 2 would, without the buffers of its transfers
    ],
)
def test_the_change_that_is_named_makes_it_fit(
    planned: Planned, gigabytes: int, gpus: int, changes: dict[str, str], code: str
) -> None:
    typed = {"PR": "bf16", "DO": "true"} | changes
    plan = planned(gigabytes, gpus, typed)
    assert plan.memory_limit is not None and plan.memory.total > plan.memory_limit
    (problem,) = driver._refusals(plan, {})
    assert (problem.code, problem.names) == ("memory-gpu", ("MODEL_SIZE",))
    change = problem.message.values["change"]
    assert change.values["change"].code == code, change
    made = {name: value for name, value in re.findall(r"\b([A-Z_]{2,})=(\w+)", str(change)) if name in CHANGED}
    changed = planned(gigabytes, gpus, typed | made)
    assert changed.memory.total <= (changed.memory_limit or 0) and not driver._refusals(changed, {})


def test_an_optimizer_that_ram_cannot_take_is_neither_offered_nor_begun(planned: Planned) -> None:
    """8B on an H100 takes 97 GB of RAM beside its process: it ran in 134 GB."""
    typed = {"MODEL_SIZE": "8B", "PR": "bf16", "DO": "true"}
    offload = typed | {"OPTIMIZER_OFFLOAD": "auto"}
    for ram, code in ((40, "change-ranks-ac-gpu"), (100, "change-ac-offload"), (134, "change-offload")):
        (problem,) = driver._refusals(planned(86, 1, typed, ram=ram), {})
        assert problem.message.values["change"].values["change"].code == code
    assert not driver._refusals(planned(86, 1, offload, ram=134), {})
    small = planned(86, 1, offload, ram=100)
    (problem,) = driver._refusals(small, {})
    assert (problem.code, problem.names) == ("memory-ram", ("OPTIMIZER_OFFLOAD",))
    assert problem.message.values["change"].values["change"].code == "change-ac"
    assert "memory-warning-ram" in {warning.code for warning in small.warnings}
    unchecked = dataclasses.replace(small, variables=dataclasses.replace(small.variables, memory_check=False))
    assert not driver._refusals(unchecked, {})


IN_RAM = {"MODEL_SIZE": "8B", "PR": "bf16", "DO": "true", "OPTIMIZER_OFFLOAD": "auto"}


def test_ram_is_asked_for_where_something_moves_there(planned: Planned) -> None:
    """A small model on many GPUs beside little RAM trains as before."""
    plan = planned(141, 8, {"MODEL_SIZE": "1B", "PR": "bf16", "DO": "true"}, ram=32)
    assert not plan.lacks_ram and not driver._refusals(plan, {})


def test_copies_of_a_save_are_counted_beside_an_optimizer_in_ram(planned: Planned) -> None:
    """97 GB of optimizer, 112 of copies, and the process."""
    for ram, background in ((134, False), (200, False), (256, True)):
        plan = planned(86, 1, IN_RAM, ram=ram)
        assert (plan.background_save, driver._refusals(plan, {})) == (background, [])
        told = [str(note) for note in plan.notes if note.code == "save-beside-optimizer"]
        assert len(told) == (not background) and all("96.6 GB" in note and "112.4 GB" in note for note in told)
    (problem,) = driver._refusals(planned(86, 1, IN_RAM, ram=200, MP_BACKGROUND_SAVE="true"), {})
    assert (problem.code, problem.names) == ("memory-ram-copies", ("OPTIMIZER_OFFLOAD", "MP_BACKGROUND_SAVE"))
    assert planned(86, 1, IN_RAM, ram=134, MP_SAVE_OPTIMIZER="false").background_save


def test_the_change_that_is_named_finds_its_ram(planned: Planned) -> None:
    """Each rank more is a process more."""
    typed = {"MODEL_SIZE": "70B", "PR": "bf16", "DO": "true", "OPTIMIZER_OFFLOAD": "auto"}
    for ram in range(840, 880, 5):
        (problem,) = driver._refusals(planned(86, 1, typed, ram=ram), {})
        change = problem.message.values["change"]
        made = {name: value for name, value in re.findall(r"\b([A-Z_]{2,})=(\w+)", str(change)) if name in CHANGED}
        ranks = re.search(r"on (\d+) GPUs", str(change))
        changed = planned(86, int(ranks.group(1)) if ranks else 1, typed | made, ram=ram)
        assert not driver._refusals(changed, {}), str(change)


def test_few_cores_make_an_optimizer_in_ram_slow(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prediction is for those of the machine that was measured."""
    for cores, said in ((2, True), (16, False)):
        monkeypatch.setattr("megatron_patch.launch.environment.usable_cores", lambda cores=cores: cores)
        codes = {note.code for note in planned(86, 1, IN_RAM).notes}
        assert ("offload-few-cores" in codes) == said


def test_the_figure_for_more_stages_is_that_of_their_plan(planned: Planned) -> None:
    """AC=offload moves other things in a pipeline than without one; the last stage gets fewer layers."""
    typed = {"TP": "8", "SP": "true", "PR": "bf16", "DO": "true", "OPTIMIZER_OFFLOAD": "auto"}
    for more in ({"MODEL_SIZE": "70B", "AC": "offload"}, {"MODEL_SIZE": "8B"}):
        offered = advice._figures(
            planned(100, 8, typed | more), advice.Change(words=Message("uncoded", text="PP 2"), pp=2, ranks=2)
        )
        changed = planned(100, 16, typed | more | {"PP": "2"})
        assert offered == (changed.memory.total, changed.memory_limit)


def test_more_processes_do_not_make_more_ram(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_patch.launch.environment.available_memory", lambda: 22 * 10**9)
    plan, *_ = driver.make_plan(values(MODEL_SIZE="8B", PR="bf16"), surroundings(), dry_run=True)
    assert plan is not None
    (warning,) = [one for one in plan.warnings if one.code == "memory-warning-cpu"]
    assert warning.values["change"] == Message("change-smaller-cpu")


def test_ram_that_copies_take(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 B parameters of 14 bytes, 112 GB over all ranks: copied to RAM where that is two thirds of it at most."""
    gpu = Gpu(name="some", memory_bytes=141 * 10**9, uuid="GPU-1")
    monkeypatch.setattr("megatron_patch.launch.environment.installed_gpus", lambda: (gpu,) * 8)
    found = {}
    for ram, asked in ((150, "auto"), (200, "auto"), (150, "true"), (200, "false")):
        monkeypatch.setattr("megatron_patch.launch.environment.total_memory", lambda ram=ram: ram * 10**9)
        typed = values(**LONG | {"MODEL_SIZE": "8B", "PR": "bf16", "DO": "true"})
        plan, *_ = driver.make_plan(typed, surroundings(MP_DEVICE="auto", MP_BACKGROUND_SAVE=asked), dry_run=False)
        assert plan is not None
        assert ("--background-save" in megatron_argv(plan)) == plan.background_save
        assert any(note.code == "save-between-steps" for note in plan.notes) == (ram == 150 and asked == "auto")
        found[ram, asked] = plan.background_save
    assert found == {(150, "auto"): False, (200, "auto"): True, (150, "true"): True, (200, "false"): False}


def test_what_is_said_about_the_optimizer(planned: Planned) -> None:
    """One GPU of 141 GB holds 8B only with a small optimizer; under fp8 whole fp32 copies remain."""
    typed, said = {"MODEL_SIZE": "8B", "DO": "true"}, {}
    for precision in ("bf16", "fp8"):
        codes = [note.code for note in planned(148, 1, typed | {"PR": precision}).notes]
        said[precision] = [code for code in codes if code in ("compact-needed", "compact-asked", "moments-bf16")]
    assert said == {"bf16": ["compact-needed", "moments-bf16"], "fp8": ["moments-bf16"]}


def test_a_container_without_shared_memory(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's 64 MB, which data loaders and NCCL fill."""
    for size, warned in ((64 << 20, True), (8 << 30, False)):
        monkeypatch.setattr("megatron_patch.launch.environment.shared_memory", lambda size=size: size)
        said = [str(warning) for warning in planned(96, 1, {}).warnings]
        assert any(one.startswith("/dev/shm has 67 MB: NCCL and data loaders may end") for one in said) == warned


def test_a_run_that_another_machine_may_still_write(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """NFS may keep locks from other machines: a run that has not said how it ended is told of, one that has is not."""
    os.close(run_status.take(tmp_path))
    lock = tmp_path / run_status.LAUNCHER
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"host": "elsewhere"}))
    for ended in (False, True):
        if ended:
            run_status.record_end(tmp_path, "finished", None, 9)
        plan, _, problems = driver.make_plan(values(OUTPUT_BASEPATH=str(tmp_path)), surroundings(), dry_run=True)
        assert plan is not None, problems
        assert (
            any("on elsewhere" in note and "not written how it ended" in note for note in map(str, plan.notes)) != ended
        )


def test_it_can_be_tried_all_the_same(planned: Planned) -> None:
    plan = planned(20, 1, {"MODEL_SIZE": "8B", "PR": "bf16", "DO": "true"})
    assert driver._refusals(plan, {})
    assert not driver._refusals(
        dataclasses.replace(plan, variables=dataclasses.replace(plan.variables, memory_check=False)), {}
    )
