"""Every script that a user starts: from any working folder, whatever lies there, and by whichever Python he types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("toolkits", "examples", "LM-Evaluation-Harness")
NOT_STARTED = ("find_python.sh", "python.sh", "facts.sh", "container_setup.sh", "language.sh")
"""Used by other scripts."""
NO_HELP = {"quickstart.sh", "quickstart_summary.py"} | {
    path.name for path in (REPOSITORY / "examples" / "tanuki_8b").glob("8B-*.sh")
}
"""Take no `--help`: they go to work, or refuse on what is not there."""
OWN_PYTHON = ("quickstart_summary.py", "pretrain_llama.py", "check_installed.py")
"""Started by scripts of ours, by the project's Python."""
SHADOWS = ("json", "inspect", "torch", "typing", "random", "types", "logging", "verify", "numpy", "rich", "signal")


def scripts(suffix: str) -> list[Path]:
    """All of them, but for what only other scripts use."""
    found = [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob(f"*{suffix}"))]
    return [path for path in found if path.name not in NOT_STARTED and ".venv" not in path.parts]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working folder whose files are called like modules; to import one leaves a trace and fails."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'imported')!r}, 'w').close()\nraise SystemExit(77)\n"
        )
    return tmp_path


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    names = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHON", "VIRTUAL_ENV")
    environ = {name: value for name, value in os.environ.items() if name not in names and not name.startswith("MP_")}
    # An empty part of PYTHONPATH is the working folder.
    environ |= {"PYTHON": sys.executable, "PYTHONPATH": "", **more}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False)


def all_of(commands: dict[str, list[str]], folder: Path, **more: str) -> Iterator[tuple[str, str]]:
    """Name and what it said of every command that did not answer --help."""
    with ThreadPoolExecutor(2) as pool:
        for name, done in zip(commands, pool.map(lambda one: run(one, folder, **more), commands.values()), strict=True):
            if done.returncode != 0 or "--" not in done.stdout:
                yield name, f"status {done.returncode}: {done.stdout[-300:]}{done.stderr[-600:]}"


def test_shell_scripts_from_a_hostile_folder(hostile: Path) -> None:
    """And with an empty part in PYTHONPATH, as `PYTHONPATH=$PYTHONPATH:more` makes it."""
    commands = {
        path.name: [shell, str(path), "--help"]
        for path, shell in zip(scripts(".sh"), ["sh", "bash"] * 20, strict=False)
        if path.name not in NO_HELP and path.name != "one_RTX3090_test.sh"
    }
    assert len(commands) >= 10
    assert dict(all_of(commands, hostile, PYTHONPATH=f":{hostile / 'more'}:")) == {}
    assert not (hostile / "imported").exists()


def test_shell_scripts_in_their_own_folder() -> None:
    """inspect.py lies beside one of them."""
    script = REPOSITORY / "toolkits" / "sft_data_preprocessing" / "run_build_idxmap_sft_dataset.sh"
    done = run(["bash", script.name, "--help"], script.parent)
    assert done.returncode == 0, done.stderr
    assert "SEQ_LEN" in done.stdout


def python_scripts() -> dict[str, list[str]]:
    """What users type behind `python`."""
    return {
        path.name: [str(path), "--help"]
        for path in scripts(".py")
        if path.name not in NO_HELP and path.name not in OWN_PYTHON
    }


def test_python_scripts_from_a_hostile_folder(hostile: Path) -> None:
    """By the project's Python: nothing of the folder is imported."""
    commands = {name: [sys.executable, *words] for name, words in python_scripts().items()}
    assert len(commands) >= 10
    assert dict(all_of(commands, hostile)) == {}
    assert not (hostile / "imported").exists()


def other_pythons() -> list[str]:
    """Interpreters of this machine that are not the project's: Debian's, and what pyenv has; 3.8 or newer."""
    places = [
        Path("/usr/bin/python3"),
        *Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin/python"),
    ]
    code = "import sys; sys.exit(sys.version_info < (3, 8))"
    return [
        str(path)
        for path in places
        if path.is_file() and subprocess.run([path, "-c", code], check=False).returncode == 0
    ]


def test_python_scripts_by_another_python(hostile: Path) -> None:
    """One that is too old, or has no torch, hands over to the project's."""
    pythons = other_pythons()
    if not pythons:
        pytest.skip("this machine has no other Python")
    commands = {name: [pythons[at % len(pythons)], *words] for at, (name, words) in enumerate(python_scripts().items())}
    commands["watch"] = [pythons[0], "-m", "megatron_patch.watch", "--help"]
    watch = {"watch": commands.pop("watch")}
    assert dict(all_of(commands, hostile)) == {}
    assert dict(all_of(watch, REPOSITORY)) == {}
    assert not (hostile / "imported").exists()


def test_an_active_environment_without_torch(tmp_path: Path) -> None:
    """It is taken first, as everywhere; where it proves unfit, .venv does the work."""
    made = subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=False)
    if made.returncode or not (REPOSITORY / ".venv" / "bin" / "python").exists():
        pytest.skip("no venv, or no .venv")
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "PYTHONPATH")}
    script = REPOSITORY / "toolkits" / "sft_data_preprocessing" / "verify.py"
    done = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "python"), str(script), "--help"],
        env=environ | {"VIRTUAL_ENV": str(tmp_path / "venv")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "venv")
