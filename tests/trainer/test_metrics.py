"""What a run leaves behind and shows: metrics.jsonl, progress, TensorBoard, logs."""

from __future__ import annotations

import io
import json
import math
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_patch.backend.hooks import Step
from megatron_patch.common.disk import explain
from megatron_patch.common.hardware import peak_tflops
from megatron_patch.trainer.callbacks.base import Rank
from megatron_patch.trainer.callbacks.progress import Progress
from megatron_patch.trainer.metrics import MetricsFile, step_record
from megatron_patch.trainer.screen import Screen
from megatron_patch.trainer.startup import Startup

from .harness import SEQ_LENGTH, Run, complete_iterations, launch

BATCH = 8


def step(iteration: int, **changes: object) -> Step:
    """A plausible step."""
    facts = {
        "loss": 2.5, "lr": 1e-3, "grad_norm": 0.5, "skipped": False, "consumed_samples": 8 * iteration,
        "batch_samples": 8, "seconds": 0.5, "flops": 4e12, "peak_memory_bytes": 1 << 30,
    }  # fmt: skip
    return Step(iteration=iteration, **(facts | changes))


def test_every_iteration_has_its_line(reference: Run) -> None:
    """All fields, float32 losses with all their digits, tokens that add up."""
    assert [record["iteration"] for record in reference.metrics] == list(range(1, 21))
    for record in reference.metrics:
        assert set(record) == {
            "iteration", "loss", "lr", "grad_norm", "tokens", "batch", "step_ms", "tokens_per_s_per_gpu",
            "tflops_per_gpu", "mfu", "peak_memory_bytes", "allocated_bytes", "reserved_bytes",
        }  # fmt: skip
        assert record["tokens"] == record["iteration"] * BATCH * SEQ_LENGTH
        assert record["tokens_per_s_per_gpu"] == pytest.approx(BATCH * SEQ_LENGTH / record["step_ms"] * 1e3)
        assert 2**28 < record["peak_memory_bytes"] < 2**33
        assert 0 < record["tflops_per_gpu"] < 10


def test_lr_is_the_one_that_the_step_used(reference: Run) -> None:
    """Megatron steps its schedule after the optimizer: iteration 1 has the rate of 0 steps, 2 of one, ..."""

    def schedule(steps: int) -> float:
        if steps <= 2:
            return 1e-3 * steps / 2
        return 1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * (steps - 2) / 18))

    rates = [record["lr"] for record in reference.metrics]
    assert rates == pytest.approx([schedule(steps) for steps in range(20)], rel=1e-9)


def test_the_screen(reference: Run) -> None:
    """A few lines for a person; Megatron's hundreds are in the log of each rank."""
    lines = reference.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["model", "device", "layout", "data", "start"]
    assert "0.2 M parameters: 4 layers, hidden 64" in lines[0]
    assert "1 x CPU process" in lines[1]
    assert "weights only" in lines[4]
    assert lines[5].startswith("first step after ")
    assert [line.split()[1] for line in lines[6:]] == ["1/20", "5/20", "10/20", "15/20", "20/20"]
    assert f"loss {reference.losses[-1]:.4f}" in lines[-1]
    assert reference.stderr == ""
    assert len(reference.log().splitlines()) > 500
    assert "0.19.2" in reference.log()  # the patches and why


def test_the_way_to_the_first_step(reference: Run) -> None:
    """Every part in its order; torchrun was started here without the driver, which would be the first two."""
    record = json.loads((reference.output / "startup.json").read_text())
    assert list(record["parts"]) == [
        "torch", "Megatron", "arguments and tokenizer", "process groups", "model", "optimizer", "checkpoint", "data",
        "first step",
    ]  # fmt: skip
    assert record["seconds"] == pytest.approx(sum(record["parts"].values()))
    assert record["parts"]["first step"] * 1e3 >= reference.metrics[0]["step_ms"]
    assert min(record["parts"].values()) > 0


def test_tensorboard(reference: Run) -> None:
    """The curve is in Megatron's event file too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(reference.output / "tensorboard")).Reload()
    curve = [event.value for event in events.Scalars("lm loss")]
    assert curve == pytest.approx(reference.losses, rel=1e-6)


def test_resumed_file_forgets_what_came_after(tmp_path: Path) -> None:
    """Lines after the checkpoint are cut, with a last line that was torn."""
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0)
    for iteration in range(1, 6):
        first.write({"iteration": iteration, "loss": 1.0 / iteration})
    first.write({"iteration": 3, "validation_loss": 0.5})
    first.close()
    with path.open("a") as file:
        file.write('{"iteration": 2, "lo')
    second = MetricsFile(path, 3)
    second.write({"iteration": 4, "loss": 7.0})
    second.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["iteration"] for record in records] == [1, 2, 3, 3, 4]
    assert records[-1] == {"iteration": 4, "loss": 7.0}


def test_a_fresh_run_starts_a_fresh_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1, "loss": 3.0}\n')
    MetricsFile(path, 0).close()
    assert path.read_text() == ""


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    """NaN and infinity would make the file unreadable for everything but Python."""
    file = MetricsFile(tmp_path / "m.jsonl", 0)
    file.write(step_record(step(1, loss=math.nan, grad_norm=math.inf), seq_length=64, world_size=2))
    file.write({"iteration": 1, "validation_loss": 1.0, "validation_losses": {"a": math.nan, "b": 1.0}})
    file.close()
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    of_step, of_evaluation = (json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert of_step["loss"] is None
    assert of_step["grad_norm"] is None
    assert of_evaluation["validation_losses"] == {"a": None, "b": 1.0}, "a set that had no row"


def test_rates_are_per_device() -> None:
    record = step_record(step(3), seq_length=64, world_size=2)
    assert record["tokens_per_s_per_gpu"] == 8 * 64 / 0.5 / 2
    assert record["tflops_per_gpu"] == pytest.approx(4.0)
    assert record["step_ms"] == 500.0
    assert "skipped" not in record
    assert step_record(step(3, skipped=True), seq_length=64, world_size=2)["skipped"] is True


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, steps: list[Step], peak: float | None = None) -> str:
    """What a run over these steps shows."""
    screen = Screen(stream, speaks=True)
    rank = Rank(
        rank=1, world_size=2, output_dir=Path(), device="H200", unit="GPU", screen=screen, startup=Startup(0.0)
    )  # fmt: skip
    progress = Progress(rank, peak)
    progress.train_start(SimpleNamespace(train_iters=20, iteration=0, log_interval=5, seq_length=64), [])
    for one in steps:
        progress.step(one)
    screen.say("saved")
    progress.close()
    return stream.getvalue()


def test_lines_in_a_file() -> None:
    """The first and last iteration, and every fifth; no control characters."""
    text = show(io.StringIO(), [step(i) for i in range(1, 21)], peak=8.0)
    assert [line.split()[1] for line in text.splitlines()[:-1]] == ["1/20", "5/20", "10/20", "15/20", "20/20"]
    assert "MFU 50.0%" in text
    assert "\x1b" not in text
    assert "0:00:05 left" in text.splitlines()[2]


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One live bar that is redrawn; without a known peak no MFU."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    text = show(Terminal(), [step(i) for i in range(1, 21)])
    assert "\x1b" in text
    assert "20/20" in text
    assert "loss 2.5000" in text
    assert "MFU" not in text
    assert "saved" in text


def test_skipped_step_is_said() -> None:
    assert "SKIPPED (gradient overflow)" in show(io.StringIO(), [step(1, skipped=True, grad_norm=None)])


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H20", 148.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("CPU process", None),
    ],
)
def test_each_gpu_has_its_peak(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


@pytest.mark.slow
def test_weights_and_biases(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, the run's file in wandb/ holds what would be sent; `wandb sync` sends it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = f"--train-iters 3 --wandb-project p --wandb-exp-name n --wandb-save-dir {tmp_path}"
    done = launch(tmp_path, data, flags)  # whole interpreters: a fork loses what it would write at its end
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"lm loss" in run.read_bytes()


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_weights_and_biases_hear_of_the_last_save(
    tmp_path: Path, data: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged there when it is written, which may be after the last step and the last validation."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = f"--train-iters 3 --wandb-project p --wandb-exp-name n --wandb-save-dir {tmp_path}"
    flags += f" --save {tmp_path}/checkpoints --save-interval 5 --background-save"
    run = launch(tmp_path, data, flags, processes=processes, script=Path(__file__).with_name("slow_save.py"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert complete_iterations(tmp_path / "checkpoints") == [3]
    (offline,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"iter_0000003" in offline.read_bytes()
    assert b"lm loss" in offline.read_bytes()


def test_a_full_disk_is_said_of_the_file(tmp_path: Path) -> None:
    """The kernel names none where a write fails. No file may grow here, as on a full disk."""
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            file.write({"iteration": 1})
        sentence = str(explain(error.value))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sentence.startswith(
        f"{tmp_path / 'metrics.jsonl'} cannot be written: File too large; a file may have 0 bytes"
    )
