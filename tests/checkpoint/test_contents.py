"""What a path holds: driver and converter get one answer, whatever is missing or linked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from megatron_patch.checkpoint.contents import HUGGING_FACE, PER_RANK, TORCH_DIST, TRACKER, look, look_for_megatron
from megatron_patch.checkpoint.converter.options import parse
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.launch.weights import read_weights


@pytest.fixture
def run(good: Path, tmp_path: Path) -> Path:
    """A run's output folder: iterations 7 and 12 whole, 15 cut, the tracker at 12."""
    for number in (7, 12, 15):
        shutil.copytree(good / "megatron" / "release", tmp_path / "run" / "checkpoints" / f"iter_{number:07d}")
    (tmp_path / "run" / "checkpoints" / TRACKER).write_text("12")
    (tmp_path / "run" / "checkpoints" / "iter_0000015" / "metadata.json").unlink()
    return tmp_path / "run"


def both(path: Path) -> Path:
    """What driver and converter take for the iteration, which is the same."""
    found = look_for_megatron(path)
    weights = read_weights(str(path))
    assert weights.kind == "mcore"
    driver = Path(weights.path) / (f"iter_{weights.step:07d}" if weights.step else found.name)
    assert driver == found
    return found


def refused_by_both(path: Path) -> str:
    with pytest.raises(CheckpointError) as one:
        look_for_megatron(path)
    with pytest.raises(CheckpointError) as other:
        read_weights(str(path))
    assert str(one.value) == str(other.value)
    return str(one.value)


def test_a_run_and_its_parts(run: Path) -> None:
    newest = run / "checkpoints" / "iter_0000012"
    for typed in (run, run / "checkpoints", newest, f"{run}/", run / "checkpoints" / ".." / "checkpoints"):
        assert both(Path(typed)) == newest
    older = run / "checkpoints" / "iter_0000007"
    assert both(older) == older == look(run, iteration=7).path
    assert look(older).iteration == 7 and not look(older).tracked and look(newest).tracked


def test_without_a_tracker_the_newest_whole_one(run: Path) -> None:
    (run / "checkpoints" / TRACKER).unlink()
    assert both(run).name == "iter_0000012"


def test_without_metadata_json_it_is_not_whole(run: Path) -> None:
    cut = run / "checkpoints" / "iter_0000015"
    assert "not written to its end" in refused_by_both(cut)
    (run / "checkpoints" / TRACKER).write_text("15")
    said = refused_by_both(run)
    assert "points to iter_0000015, which was not written to its end; complete: 7, 12" in said


def test_a_tracker_that_says_nothing_usable(run: Path) -> None:
    (run / "checkpoints" / TRACKER).write_text("latest")
    assert "says 'latest'; a number or 'release' is needed" in refused_by_both(run)


def test_a_release_is_found_from_its_folder_and_from_above(good: Path) -> None:
    for typed in (good / "megatron", good / "megatron" / "release"):
        assert both(typed) == good / "megatron" / "release"
    assert look(good / "megatron").kind == TORCH_DIST and look(good / "hf").kind == HUGGING_FACE


def test_links(run: Path, good: Path, tmp_path: Path) -> None:
    """A link whose name tells nothing stands for what it leads to; files of a cache are links into blobs/."""
    (tmp_path / "latest").symlink_to(run / "checkpoints" / "iter_0000012")
    assert both(tmp_path / "latest") == run / "checkpoints" / "iter_0000012"
    (tmp_path / "a run").symlink_to(run)
    assert both(tmp_path / "a run") == tmp_path / "a run" / "checkpoints" / "iter_0000012"
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted((good / "hf").iterdir())):
        shutil.copyfile(file, blobs / f"{number:064d}")
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / f"{number:064d}", snapshot))
    assert read_weights(str(snapshot)).path == str(snapshot) == str(look(snapshot).path)


def test_old_per_rank_files(tmp_path: Path) -> None:
    file = tmp_path / "iter_0000005" / "mp_rank_00" / "model_optim_rng.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert look(tmp_path).kind == look(tmp_path / "iter_0000005").kind == PER_RANK
    assert parse(["--source", str(tmp_path), "--output-path", "x"]).direction == "mcore2hf"


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert "no such folder" in refused_by_both(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "a file, not a folder" in refused_by_both(tmp_path / "file")
    assert "no checkpoint: it holds file" in refused_by_both(tmp_path)


def test_where_it_lies_below(tmp_path: Path) -> None:
    """OUTPUT_BASEPATH of a run of Pai-Megatron-Patch: checkpoint/NAME is meant."""
    for name in ("first", "second"):
        (tmp_path / "checkpoint" / name).mkdir(parents=True)
        (tmp_path / "checkpoint" / name / TRACKER).write_text("release")
    said = refused_by_both(tmp_path)
    assert f"below it is: {tmp_path}/checkpoint/first, {tmp_path}/checkpoint/second" in said
