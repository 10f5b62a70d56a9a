"""Runs of adapters that are killed, go on elsewhere, or are told another base."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from megatron_patch.checkpoint.cli import main as convert

from ..trainer.harness import Run, complete_iterations, launch_and_signal, launch_warm, read_checkpoint, train
from .world import FLAGS, World, make_model

SAVE = "--save {0}/checkpoints --save-interval 4 --background-save --lr 2e-3 --min-lr 2e-4 --lora-dropout 0.1"
ON = " --load {0}/checkpoints --ckpt-step {1} --override-opt-param-scheduler"


@pytest.fixture(scope="module")
def whole(world: World) -> Run:
    """20 iterations with dropout, never interrupted."""
    output = world.folder / "whole"
    return train(output, world.data, f"{world.start()} {SAVE.format(output)}")


def test_killed_and_resumed_it_is_the_same_bit_for_bit(world: World, whole: Run, tmp_path: Path) -> None:
    """SIGKILL to all processes between two asynchronous checkpoints; the base is read anew, --lora-adapter is not."""
    flags = f"{world.start()} {SAVE.format(tmp_path)}"
    launch_and_signal(tmp_path, world.data, flags, processes=1, iteration=10, number=signal.SIGKILL)
    found = complete_iterations(tmp_path / "checkpoints")  # the folder of one that was being written has its name
    assert found and max(found) < 20
    run = train(tmp_path, world.data, flags + ON.format(tmp_path, max(found)))
    assert run.losses == whole.losses
    mine, other = (read_checkpoint(folder / "checkpoints" / "iter_0000020") for folder in (tmp_path, whole.output))
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def resumed(world: World, ours: Run, tmp_path: Path, flags: str, processes: int = 1) -> Run:
    """24 iterations from the 20th of a run, in another folder, with what lies beside its checkpoints."""
    (tmp_path / "checkpoints").symlink_to(ours.output / "checkpoints")
    saving = f"--lr 2e-3 --min-lr 2e-4 --train-iters 24 --save {tmp_path}/checkpoints --save-interval 100"
    on = ON.format(tmp_path, 20)
    return launch_warm(tmp_path, world.data, f"{flags} {saving} {on}", processes=processes)


def test_another_base_at_a_resume_is_refused(world: World, ours: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "other", seed=5)
    run = resumed(world, ours, tmp_path, f"--hf-checkpoint {tmp_path / 'other'} {FLAGS}")
    assert run.returncode != 0 and "not the base of these adapters" in run.stderr
    assert not run.losses and "Traceback" not in run.stderr and "File " not in run.stderr


@pytest.mark.slow
def test_another_alpha_at_a_resume_is_refused(world: World, ours: Run, tmp_path: Path) -> None:
    run = resumed(world, ours, tmp_path, f"--hf-checkpoint {world.hf} --lora-rank 4 --lora-alpha 8")
    assert run.returncode != 0 and "alpha" in run.stdout + run.stderr


@pytest.mark.slow
def test_another_layout_at_a_resume(world: World, tmp_path: Path) -> None:
    """TP 1 to TP 2 with sequence parallelism and the distributed optimizer: the loss goes on."""
    first, second = tmp_path / "first", tmp_path / "second"
    do = "--use-distributed-optimizer --dist-ckpt-optim-fully-reshardable"
    flags = f"{world.start()} {do} --lr 2e-3 --min-lr 2e-4 --save {first}/checkpoints --save-interval 10"
    expected = train(first, world.data, flags).losses
    on = ON.format(first, 10) + " --tensor-model-parallel-size 2 --sequence-parallel"
    run = train(second, world.data, flags + on, processes=2)
    assert max(abs(a - b) for a, b in zip(run.losses, expected[10:], strict=True)) <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param("--tensor-model-parallel-size 2", id="TP2"),
        pytest.param("--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1", id="VPP"),
    ],
)
def test_a_base_in_megatrons_form_is_the_same_run(world: World, ours: Run, tmp_path: Path, layout: str) -> None:
    """The converted folder: what another layout wrote is what the ranks hold. In a virtual pipeline no run started."""
    assert convert(["--source", str(world.hf), "--output-path", str(tmp_path / "mcore")]) == 0
    start = f"--base-checkpoint {tmp_path / 'mcore' / 'release'} --lora-adapter {world.adapter} {FLAGS}"
    run = train(tmp_path / "run", world.data, f"{start} --lr 2e-3 --min-lr 2e-4 {layout}", processes=2)
    assert max(abs(a - b) for a, b in zip(run.losses, ours.losses, strict=True)) <= 2e-6
