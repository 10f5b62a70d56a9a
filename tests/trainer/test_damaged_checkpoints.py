"""A checkpoint that is not what was written is noticed, named and passed over; and none runs code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from megatron_patch.backend.saving.retention import _read_back
from megatron_patch.checkpoint.cli import main as convert
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats.torch_dist import TorchDistReader
from megatron_patch.runs.recovery import read_events
from megatron_patch.runs.stored_chunks import find_damage, find_structural_damage, read_checksums

from ..checkpoint.damage import Attack, fill, flip
from .harness import REPOSITORY, Run, environment, launch_warm, read_checkpoint, train

WORKER = REPOSITORY / "tests" / "trainer" / "load_worker.py"
RESHARDABLE = "--use-distributed-optimizer --dist-ckpt-optim-fully-reshardable"
FILE = "__0_0.distcp"


def saving(output: Path, *, until: int = 6) -> str:
    """Flags of a run of eight iterations that saves every second one, and ends before."""
    schedule = f"--train-iters 8 --lr-decay-iters 8 --exit-interval {until}"
    return f"--save {output}/checkpoints --save-interval 2 {schedule} {RESHARDABLE}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    """Checkpoints of iterations 2, 4 and 6."""
    output = tmp_path_factory.mktemp("run")
    return train(output, data, saving(output) + " --background-save")


def of_largest_tensor(folder: Path) -> tuple[Path, int]:
    """Its file, and a byte in the middle of it."""
    checksums = read_checksums(folder)
    assert checksums
    chunk = max(checksums.chunks.values(), key=lambda chunk: chunk.length)
    return folder / chunk.file, chunk.offset + chunk.length // 2


def of_object(folder: Path) -> tuple[Path, int]:
    """File of the arguments, and a byte in them."""
    checksums = read_checksums(folder)
    assert checksums
    (chunk,) = [chunk for chunk in checksums.chunks.values() if chunk.item.startswith("common_state")]
    return folder / chunk.file, chunk.offset + chunk.length // 2


def hostile_metadata(folder: Path) -> None:
    """As somebody would send it: without checksums."""
    (folder / "checksums.json").unlink()
    (folder / ".metadata").write_bytes(pickle.dumps(Attack(folder.parent / "executed")))


def hostile_object(folder: Path) -> None:
    """A whole checkpoint of one object."""
    shutil.rmtree(folder)
    dcp.save({"common_state/shard_0_1": Attack(folder.parent / "executed")}, checkpoint_id=folder, no_dist=True)


def outside(folder: Path) -> None:
    """Its index names a file of another folder."""
    (folder / "checksums.json").unlink()
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = f"../other/{place.relative_path}"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@dataclass(frozen=True)
class Case:
    """What happens to the folder of iteration 6, and what is said."""

    change: Callable[[Path], object]
    loading: str
    """By a rank that reads all of it."""
    looking: str = ""
    """By the launcher, which reads no tensors; nothing if it cannot see this."""


OTHER = "not the bytes that were written"
CASES = {
    "untouched": Case(lambda folder: None, "loaded"),
    "unverified": Case(lambda folder: (folder / "checksums.json").unlink(), "loaded"),
    "flipped": Case(lambda folder: flip(*of_largest_tensor(folder)), OTHER),
    "flipped_object": Case(lambda folder: flip(*of_object(folder)), OTHER),
    "zeroed": Case(lambda f: fill(*of_largest_tensor(f), bytes(8192)), "are all zero"),
    "of_iteration_2": Case(
        lambda f: shutil.copy(f.parent.parent / "checkpoints" / "iter_0000002" / FILE, f / FILE), OTHER
    ),
    "cut": Case(lambda f: os.truncate(f / FILE, 5000), "cut off", "5000 bytes, "),
    "missing": Case(lambda folder: (folder / FILE).unlink(), "missing; it holds", "missing"),
    "longer": Case(lambda f: fill(f / FILE, (f / FILE).stat().st_size, b"x"), "loaded", "were written"),
    "index_flipped": Case(lambda folder: flip(folder / ".metadata", 3000), OTHER),
    "index_empty": Case(lambda folder: (folder / ".metadata").write_bytes(b""), OTHER, "missing or empty"),
    "index_unverified": Case(
        lambda f: ((f / "checksums.json").unlink(), os.truncate(f / ".metadata", 3000)), "damaged"
    ),
    "sums_flipped": Case(lambda folder: flip(folder / "checksums.json", 900), "read unverified", "read unverified"),
    "sums_garbage": Case(
        lambda f: (f / "checksums.json").write_text("[" * 100000), "read unverified", "read unverified"
    ),
    "mark_garbage": Case(lambda f: (f / "metadata.json").write_text('{"a": 1'), "loaded", "damaged"),
    "mark_missing": Case(lambda f: (f / "metadata.json").unlink(), "loaded", "not written to its end"),
    "hostile_index": Case(hostile_metadata, "refused, nothing was run: it asks for posix.system"),
    "hostile_object": Case(hostile_object, "refused, nothing was run"),
    "outside": Case(outside, "outside the folder"),
}


@pytest.fixture(scope="module")
def loaded(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """All damaged copies, and what one process said to each."""
    room = tmp_path_factory.mktemp("copies")
    shutil.copytree(run.output / "checkpoints", room / "checkpoints")
    folders = {}
    for name, case in CASES.items():
        folders[name] = room / name / "iter_0000006"
        shutil.copytree(run.output / "checkpoints" / "iter_0000006", folders[name])
        case.change(folders[name])
    command = [sys.executable, str(WORKER), *map(str, folders.values())]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    return {name: (folder, said[str(folder)]) for name, folder in folders.items()}


@pytest.mark.parametrize("name", CASES)
def test_reading(loaded: dict[str, tuple[Path, str]], name: str) -> None:
    """By the ranks; nothing that a file names has run."""
    folder, said = loaded[name]
    assert CASES[name].loading in said
    assert said == "loaded" or str(folder) in said or name == "hostile_object"
    assert not (folder.parent / "executed").exists()


@pytest.mark.parametrize("name", CASES)
def test_looking(loaded: dict[str, tuple[Path, str]], name: str) -> None:
    """By the launcher."""
    folder, _ = loaded[name]
    found = list(map(str, find_structural_damage(folder)))
    if CASES[name].looking:
        assert any(CASES[name].looking in line for line in found)
    elif name != "hostile_object":  # torch's own writer leaves no metadata.json
        assert found == []


def test_renamed(loaded: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    """A checkpoint under another iteration's name."""
    folder, _ = loaded["untouched"]
    renamed = shutil.copytree(folder, tmp_path / "iter_0000008")
    (said,) = find_structural_damage(renamed)
    assert "of iteration 6: the folder was renamed" in str(said)


def test_another_iteration_is_named(run: Run, tmp_path: Path) -> None:
    """Where both are there."""
    checkpoints = shutil.copytree(run.output / "checkpoints", tmp_path / "checkpoints")
    shutil.copy(checkpoints / "iter_0000002" / FILE, checkpoints / "iter_0000006" / FILE)
    checksums = read_checksums(checkpoints / "iter_0000006")
    assert checksums
    said = list(map(str, find_damage(checkpoints / "iter_0000006", checksums, threads=2)))
    assert said and all("it is that of iter_0000002" in line for line in said if "_extra_state" not in line)


def test_verify(run: Run, loaded: dict[str, tuple[Path, str]], capsys: pytest.CaptureFixture[str]) -> None:
    """The command."""
    assert convert(["verify", str(run.output)]) == 0
    assert "3 checkpoints" in capsys.readouterr().out
    assert convert(["verify", str(loaded["flipped"][0])]) == 2
    assert OTHER in capsys.readouterr().err


def test_the_converter_verifies(run: Run, tmp_path: Path) -> None:
    """What it reads of a run."""
    name = "decoder.layers.mlp.linear_fc2.weight"
    folder = shutil.copytree(run.output / "checkpoints" / "iter_0000006", tmp_path / "iter_0000006")
    rows = torch.empty(64, 128)
    TorchDistReader(folder).read_rows(name, 0, 0, rows)
    checksums = read_checksums(folder)
    assert checksums
    (chunk,) = [chunk for chunk in checksums.chunks.values() if chunk.item == name]
    flip(folder / chunk.file, chunk.end - 900)
    with pytest.raises(CheckpointError, match=OTHER):
        TorchDistReader(folder).read_rows(name, 0, 0, rows)


def test_reading_back(loaded: dict[str, tuple[Path, str]]) -> None:
    """What a rank finds before older checkpoints go."""
    assert _read_back(loaded["untouched"][0], 0) == []
    assert OTHER in str(_read_back(loaded["flipped"][0], 0)[0])
    assert _read_back(loaded["flipped"][0], 1) == []


def test_fp16_is_saved_before_its_first_step(data: Path, tmp_path: Path) -> None:
    """The loss scale begins too high: Adam has no state yet."""
    flags = f"{saving(tmp_path / 'run', until=2)} --fp16"
    train(tmp_path / "run", data, flags)
    again = f"{saving(tmp_path / 'run', until=4)} --fp16 --load {tmp_path}/run/checkpoints --ckpt-step 2"
    assert len(train(tmp_path / "run", data, again).metrics) == 4


def test_falls_back(run: Run, data: Path, tmp_path: Path) -> None:
    """Two ranks, one of which sees the damage: both go on from iteration 4, with the same bits."""
    whole = train(tmp_path / "whole", data, saving(tmp_path / "whole"), processes=2)
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "run" / "checkpoints")
    newest = tmp_path / "run" / "checkpoints" / "iter_0000006"
    flip(newest / "__1_0.distcp", (newest / "__1_0.distcp").stat().st_size // 2)
    shutil.copy(tmp_path / "whole" / "metrics.jsonl", tmp_path / "run")
    source = f"--load {tmp_path}/run/checkpoints --ckpt-step 6 --keep-checkpoints 2"
    resumed = train(tmp_path / "run", data, f"{saving(tmp_path / 'run', until=8)} {source}", processes=2)
    assert "iter_0000006 is damaged:" in resumed.stdout and OTHER in resumed.stdout
    assert "set aside as damaged_iter_0000006 (1 in this folder); going on from iteration 4 instead" in resumed.stdout
    (event,) = read_events(resumed.output)
    assert (event.kind, event.iteration) == ("fallback", 6)
    assert resumed.losses[:6] == whole.losses
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*iter_*"))
    assert names == ["damaged_iter_0000006", "iter_0000006", "iter_0000008"]
    again = read_checkpoint(tmp_path / "run" / "checkpoints" / "iter_0000006")
    before = read_checkpoint(tmp_path / "whole" / "checkpoints" / "iter_0000006")
    assert all(again[name].equal(before[name]) for name in before)


def test_none_left(run: Run, data: Path, tmp_path: Path) -> None:
    """The run stops, and does not begin anew."""
    shutil.copytree(run.output / "checkpoints", tmp_path / "checkpoints")
    for folder in (tmp_path / "checkpoints").glob("iter_*"):
        flip(*of_largest_tensor(folder))
    source = f"--load {tmp_path}/checkpoints --ckpt-step 6"
    stopped = launch_warm(tmp_path, data, f"{saving(tmp_path, until=8)} {source}")
    assert stopped.returncode != 0 and stopped.losses == []
    assert "No other checkpoint in" in stopped.stderr
