"""Killed at any moment, the target is absent or the old one, and the next run cleans up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.checkpoint import store
from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.manifest import Verification, verify
from megatron_patch.checkpoint.store import staged

from .models import SMALL, make_model

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("kill_worker.py")
KILLS = 25


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models that differ."""
    folder = tmp_path_factory.mktemp("sources")
    return make_model(folder / "old", SMALL), make_model(folder / "new", SMALL, "fp16")


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if ".partial-" in path.name]


def test_sigkill_at_any_moment(sources: tuple[Path, Path], tmp_path: Path) -> None:
    """Afterwards the target is the old checkpoint or the new one, whole; without an old one it is not there."""
    target = tmp_path / "place" / "target"
    done = subprocess.run(
        [sys.executable, str(WORKER), *map(str, sources), str(target), str(KILLS)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["other"] == 0 and found["old"] + found["new"] == KILLS
    assert found["old"] > 0 and found["new"] > 0 and found["leftovers"] > 0, "kills before and after the exchange"
    assert found["first status"] == found["last status"] == 0 and found["last is new"]
    assert found["left at the end"] == []
    assert not found["appeared although killed"]


def test_what_a_running_process_builds_is_left_alone(tmp_path: Path) -> None:
    """Only leftovers are removed: two that build the same target do not disturb each other."""
    with staged(tmp_path / "target", {}) as one:
        (one.path / "a").write_text("1")
        other = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from megatron_patch.checkpoint.store import staged
with staged(Path({str(tmp_path / "target")!r}), {{}}) as two:
    (two.path / "b").write_text("2")
"""
        subprocess.run([sys.executable, "-c", other], check=True, capture_output=True)
        assert (one.path / "a").read_text() == "1"
        assert (tmp_path / "target" / "b").read_text() == "2"
    assert (tmp_path / "target" / "a").read_text() == "1"
    assert leftovers(tmp_path) == []


def test_an_error_while_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf, target = make_model(tmp_path / "hf", SMALL), tmp_path / "target"
    assert main(["--source", str(hf), "--output-path", str(target)]) == 0
    before = (target / "manifest.json").read_text()
    written = store.HashingFile.write

    def full(self: store.HashingFile, data: object) -> int:
        if self.tell() > 5000:
            raise OSError(28, "No space left on device")
        return written(self, data)

    monkeypatch.setattr(store.HashingFile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        main(["--source", str(hf), "--output-path", str(target), "--overwrite"])
    assert (target / "manifest.json").read_text() == before
    assert verify(target) > 0 and leftovers(tmp_path) == []


def test_a_link_to_a_folder_stays_a_link(sources: tuple[Path, Path], tmp_path: Path) -> None:
    """The folder that it leads to is filled, then exchanged: a link ended in a traceback when all had been written."""
    disk, link = tmp_path / "disk" / "checkpoint", tmp_path / "link"
    disk.mkdir(parents=True)
    link.symlink_to(disk)
    for source in sources:
        assert main(["--source", str(source), "--output-path", str(link), "--overwrite"]) == 0
        assert link.is_symlink() and verify(link) == verify(disk) > 0
    assert leftovers(tmp_path) == leftovers(disk.parent) == []


@pytest.mark.parametrize("workers", ["1", "34"])
def test_a_signal_leaves_nothing(sources: tuple[Path, Path], tmp_path: Path, workers: str) -> None:
    """Slurm's and Kubernetes' SIGTERM left a hidden folder of the model's size."""
    program = f"""
import sys, time; sys.path.insert(0, {str(ROOT)!r})
from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.manifest import Verification
Verification.finish = lambda self: print("all but done", flush=True) or time.sleep(600)
sys.exit(main(sys.argv[1:]))
"""
    words = ["--source", str(sources[0]), "--output-path", str(tmp_path / "target"), "--workers", workers]
    with subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() not in ("all but done\n", ""):
            pass
        assert len(leftovers(tmp_path)) == 1
        process.terminate()
        assert process.wait(60) == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("begun", ["made", "removed"])
def test_a_signal_while_the_folder_is_made_or_removed_leaves_nothing(
    sources: tuple[Path, Path], tmp_path: Path, begun: str
) -> None:
    """A SIGTERM that came with the making of the folder left it; a second one ended its removal: Slurm sends one to
    each process, and the end of a worker is an error that has the folder removed."""
    program = f"""
import os, signal, sys; sys.path.insert(0, {str(ROOT)!r})
from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.manifest import Verification
def then_a_signal(function, part):
    def call(path, *args, **kwargs):
        done = function(path, *args, **kwargs)
        if part in str(path):
            os.kill(os.getpid(), signal.SIGTERM)
        return done
    return call
def fail(_verification):
    os.unlink = then_a_signal(os.unlink, "")
    raise RuntimeError
if {begun == "made"}:
    os.mkdir = then_a_signal(os.mkdir, ".partial-")
else:
    Verification.finish = fail
sys.exit(main(sys.argv[1:]))
"""
    words = ["--source", str(sources[0]), "--output-path", str(tmp_path / "target")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_another_command_wrote_meanwhile_stays(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two models to one folder: the second to end replaced the first's checkpoint, and nobody had said --overwrite."""
    target, finish = tmp_path / "target", Verification.finish

    def meanwhile(verification: Verification) -> int:
        monkeypatch.setattr(Verification, "finish", finish)
        assert main(["--source", str(sources[1]), "--output-path", str(target)]) == 0
        return finish(verification)

    monkeypatch.setattr(Verification, "finish", meanwhile)
    assert main(["--source", str(sources[0]), "--output-path", str(target)]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert json.loads((target / "manifest.json").read_text())["precision"] == "fp16" and verify(target) > 0
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", ["hugging face", "megatron"])
def test_a_source_that_is_written_to_is_refused(
    sources: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A download that is not done has its length from the beginning, and zeros at the end: they became weights."""
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(sources[0], source)
    if kind == "megatron":
        assert main(["--source", str(sources[0]), "--output-path", str(source), "--overwrite"]) == 0

    def goes_on(_verification: Verification, file: Path) -> None:
        with file.open("r+b") as opened:
            opened.seek(-1, os.SEEK_END)
            opened.write(b"\0")

    monkeypatch.setattr(Verification, "begin", goes_on)
    assert main(["--source", str(source), "--output-path", str(target), "--no-verify"]) == 2
    assert "was written to while it was read" in capsys.readouterr().err
    assert not target.exists() and leftovers(tmp_path) == []


@pytest.mark.skipif(not Path("/proc").is_mount(), reason="no mount point that a test may name")
def test_a_mount_point_is_refused_before_anything_is_written() -> None:
    """A volume of a container: what is written beside it cannot be moved to it."""
    found = store.check_target(Path("/proc"), overwrite=True, sources=[])
    assert "target-is-mount" in [message.told.code for message in found]


def test_overwrite_replaces_checkpoints_only(
    sources: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    command = ["--source", str(sources[0]), "--output-path", str(target)]
    assert main(command) == 0, "an empty folder may be filled"
    assert main(command) == 2 and "--overwrite replaces it" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    for file in target.iterdir():
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    (target / "thesis.tex").write_text("years of work")
    assert main([*command, "--overwrite"]) == 2 and "is not a checkpoint" in capsys.readouterr().err
    assert (target / "thesis.tex").read_text() == "years of work"


def test_the_source_is_never_the_target(sources: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for target in (sources[0], sources[0].parent):
        assert main(["--source", str(sources[0]), "--output-path", str(target), "--overwrite"]) == 2
        assert "is, or contains, the source" in capsys.readouterr().err


def test_a_target_within_the_source_as_in_the_seed(sources: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(sources[0], tmp_path / "hf")
    target = tmp_path / "hf" / "mcore-tp4-pp2"
    assert main(["--source", str(tmp_path / "hf"), "--output-path", str(target)]) == 0
    assert verify(target) > 0


def test_a_manifest_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"algorithm": "sha256", "files": {"../x": {"sha256": "", "bytes": 0}}}')
    with pytest.raises(CheckpointError, match="outside the folder"):
        verify(tmp_path)
