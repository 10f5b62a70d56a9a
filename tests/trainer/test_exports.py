"""MP_EXPORT_HF=every: a Hugging Face folder of each checkpoint, which changes nothing in training."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_patch.backend.saving import retention
from megatron_patch.checkpoint.export import export_hf
from megatron_patch.checkpoint.random_model import make_hf_checkpoint
from megatron_patch.data.idxmap.writer import IdxmapWriter
from megatron_patch.models import model_of_size
from megatron_patch.trainer.exporter import Exporter

from . import driver
from .driver import kill_all, until, user_environment, write_word_tokenizer
from .harness import read_metrics

VOCAB, MICRO, BATCH, SEQ = 256, 2, 4, 64


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hf`, a tiny model with its tokenizer; `data`; and `valid`, whose ids the data lacks: the more is learned of the
    data, the worse the loss on it."""
    folder = tmp_path_factory.mktemp("exports")
    tokenizer = write_word_tokenizer(folder / "tokenizer", VOCAB)
    model = replace(model_of_size("tiny"), hidden_size=64, ffn_hidden_size=128, head_dim=16)
    make_hf_checkpoint(folder / "hf", model, precision="fp32", vocab_size=VOCAB, tokenizer=tokenizer)
    generator = np.random.default_rng(0)
    for name, low in (("data", 2), ("valid", 150)):
        with IdxmapWriter(folder / name, VOCAB) as writer:
            for _ in range(100):
                writer.add_document(generator.integers(low, low + 100, size=80).tolist())
    return folder


def command(world: Path, output: Path, *, steps: int = 12, save: int = 3, valid: bool = False) -> list[str]:
    """The driver with its 25 values."""
    data, validation = world / "data", world / "valid" if valid else "none"
    values = [
        "dsw", "auto", MICRO, BATCH, 1e-2, 1e-3, SEQ, SEQ, "fp32", 1, 1, 1, "false", "true", "true", "false", "false",
        "false", save, data, validation, world / "hf", steps * BATCH * SEQ, BATCH * SEQ, output,
    ]  # fmt: skip
    return driver.command(values)


def surroundings(world: Path, mp: dict[str, str]) -> dict[str, str]:
    return user_environment(MP_TOKENIZER_PATH=str(world / "tokenizer"), MP_DEVICE="cpu") | mp


def drive(world: Path, output: Path, mp: dict[str, str], **values: object) -> subprocess.CompletedProcess[str]:
    words = command(world, output, **values)  # type: ignore[arg-type]
    return driver.run_warm(words[2:], surroundings(world, mp), world / f"{output.name}.screen")


def exported(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "exports").iterdir())


@pytest.fixture(scope="module")
def every(world: Path) -> Path:
    """12 iterations, saved every 3, of which the 2 newest checkpoints are kept."""
    mp = {"MP_EXPORT_HF": "every", "MP_KEEP_CHECKPOINTS": "2"}
    done = drive(world, world / "every", mp)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for iteration in (3, 6, 9, 12):  # on a slow machine the first ones are obsolete before it is their turn
        name = f"iter_{iteration:07d}"
        exported_now = f"exported to {world / 'every' / 'exports' / name}" in done.stdout
        assert exported_now != (f"{name} is not exported: MP_KEEP_CHECKPOINTS=2" in done.stdout)
        assert exported_now or iteration in (3, 6)
    return world / "every"


def torn_checkpoint(output: Path, iteration: int) -> None:
    """One that nobody can export."""
    folder = output / "checkpoints" / f"iter_{iteration:07d}"
    folder.mkdir(parents=True)
    (folder / "metadata.json").touch()


def test_what_retention_would_remove_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five checkpoints wait when the newest two and the best are the ones to keep: the others are let go."""
    monkeypatch.setattr(retention, "PROTECTED", [lambda: {20}])
    for iteration in (10, 20, 30, 40, 50):
        torn_checkpoint(tmp_path, iteration)
    for iteration in (20, 40, 50):
        done = tmp_path / "exports" / f"iter_{iteration:07d}"
        done.mkdir(parents=True)
        (done / "manifest.json").touch()
    (tmp_path / "checkpoints" / retention.TRACKER).write_text("50")
    said: list[str] = []
    exporter = Exporter(tmp_path, tmp_path / "hf", adapters=False, keep=2, say=said.append)
    for iteration in (10, 30):
        exporter.add(iteration)
    assert exporter.finish() == []
    assert [line.partition(":")[0] for line in said] == [f"iter_00000{n} is not exported" for n in (10, 30)]
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("iter_*")) == exported(tmp_path)


def test_all_are_exported_where_all_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No MP_KEEP_CHECKPOINTS: every one is tried, however old; this one cannot be."""
    monkeypatch.setattr(retention, "PROTECTED", [])
    for iteration in (10, 20):
        torn_checkpoint(tmp_path, iteration)
    done = tmp_path / "exports" / "iter_0000020"
    done.mkdir(parents=True)
    (done / "manifest.json").touch()
    (tmp_path / "checkpoints" / retention.TRACKER).write_text("20")
    exporter = Exporter(tmp_path, tmp_path / "hf", adapters=False, keep=None, say=str)
    assert [str(problem).partition(":")[0] for problem in exporter.finish()] == ["iter_0000010"]


def test_an_empty_folder_is_no_checkpoint_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron makes it when a save begins: the export waits for what gets its name."""
    monkeypatch.setattr(retention, "PROTECTED", [])
    source = tmp_path / "checkpoints" / "iter_0000003"
    source.mkdir(parents=True)
    exporter = Exporter(tmp_path, tmp_path / "hf", adapters=False, keep=None, say=lambda line: None)
    exporter.add_missing()
    exporter.add(3)
    assert [str(problem) for problem in exporter.finish()] == [f"{source} was not written"]


def test_retention_counts_for_exports_too(every: Path) -> None:
    assert exported(every) == ["iter_0000009", "iter_0000012"]
    assert sorted(path.name for path in (every / "checkpoints").glob("iter_*")) == exported(every)
    assert (every / "hf").is_symlink() and (every / "hf").resolve() == every / "exports" / "iter_0000012"
    AutoModelForCausalLM.from_pretrained(every / "hf")


def test_an_export_is_what_the_converter_writes(every: Path, tmp_path: Path) -> None:
    for iteration in (9, 12):
        export_hf(every, tmp_path / str(iteration), iteration=iteration)
        one, other = (
            json.loads((folder / "manifest.json").read_text())
            for folder in (every / "exports" / f"iter_{iteration:07d}", tmp_path / str(iteration))
        )
        assert one["source"] == other["source"]
        weights = [{n: f["sha256"] for n, f in m["files"].items() if n.endswith("safetensors")} for m in (one, other)]
        assert weights[0] == weights[1]


def test_it_does_not_touch_training(world: Path, every: Path, tmp_path: Path) -> None:
    assert drive(world, tmp_path, {}).returncode == 0
    losses = [[r["loss"] for r in read_metrics(folder) if "loss" in r] for folder in (tmp_path, every)]
    assert len(losses[0]) == 12 and losses[0] == losses[1]


@pytest.mark.slow
def test_killed_the_next_start_exports_what_is_missing(world: Path, tmp_path: Path) -> None:
    """SIGKILL to everything when a second checkpoint is there: no half of a folder is left under a name, and after the
    next start all checkpoints have theirs."""
    output = tmp_path / "run"
    environ = surroundings(world, {"MP_EXPORT_HF": "every"})
    started = command(world, output, steps=60, save=5)
    with (tmp_path / "screen").open("w") as screen:
        job = subprocess.Popen(started, env=environ, stdout=screen, stderr=screen, text=True)
        try:
            until(lambda: (output / "checkpoints" / "iter_0000010").is_dir(), job)
        finally:
            kill_all(job.pid)
            job.wait()
    folders = output / "exports"
    for folder in [path for path in folders.iterdir() if path.name.startswith("iter_")] if folders.is_dir() else []:
        assert (folder / "manifest.json").is_file()
    done = driver.run(started, environ)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    checkpoints = sorted(path.name for path in (output / "checkpoints").glob("iter_*"))
    assert len(checkpoints) == 12 and exported(output) == checkpoints


@pytest.mark.slow
def test_a_failed_export_is_said_and_ends_with_a_status(world: Path, tmp_path: Path) -> None:
    """Something else lies where a folder would go: training goes on to its end, then the run says so."""
    wrong = tmp_path / "run" / "exports" / "iter_0000003"
    wrong.mkdir(parents=True)
    (wrong / "diary.txt").write_text("mine")
    done = drive(world, tmp_path / "run", {"MP_EXPORT_HF": "every"})
    assert done.returncode != 0 and "is not a checkpoint" in done.stdout + done.stderr
    assert (wrong / "diary.txt").read_text() == "mine"
    assert exported(tmp_path / "run") == [f"iter_{n:07d}" for n in (3, 6, 9, 12)]
    assert len([r for r in read_metrics(tmp_path / "run") if "loss" in r]) == 12


@pytest.mark.slow
def test_adapters_are_exported_with_each_checkpoint(world: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    done = drive(world, tmp_path / "run", {"MP_EXPORT_HF": "every", "MP_LORA_RANK": "4"})
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert exported(tmp_path / "run") == [f"iter_{n:07d}" for n in (3, 6, 9, 12)]
    base = AutoModelForCausalLM.from_pretrained(world / "hf", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    assert any("lora_B" in name and parameter.any() for name, parameter in model.named_parameters())


@pytest.mark.slow
def test_after_every_the_end_alone(world: Path, tmp_path: Path) -> None:
    """A run that goes on with MP_EXPORT_HF=1 leaves the exports alone and writes a folder where the link was."""
    assert drive(world, tmp_path / "run", {"MP_EXPORT_HF": "every"}, steps=6).returncode == 0
    done = drive(world, tmp_path / "run", {"MP_EXPORT_HF": "1"}, steps=9)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert not (tmp_path / "run" / "hf").is_symlink()
    assert json.loads((tmp_path / "run" / "hf" / "manifest.json").read_text())["source"] == "iter_0000009"
    assert exported(tmp_path / "run") == ["iter_0000003", "iter_0000006"]
    done = drive(world, tmp_path / "run", {"MP_EXPORT_HF": "every"}, steps=12)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (tmp_path / "run" / "hf").resolve().name == "iter_0000012"
