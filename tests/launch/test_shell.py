"""The script itself: under sh and bash, from any folder, with any text in any value."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.launch.command import REPOSITORY

SCRIPTS = REPOSITORY / "examples" / "llama3_1"
DRIVER = SCRIPTS / "run_mcore_llama3_1.sh"
SHELLS = [name for name in ("sh", "dash", "bash") if shutil.which(name)]

STOPPED = 97
"""Status of a Python that was about to become torchrun."""

WATCH = f"""
import os, sys
with open(os.environ["WATCH_LOG"], "a") as log:
    log.write(" ".join(sys.orig_argv) + "\\n")
if "megatron_patch.torchrun" in sys.orig_argv:
    os._exit({STOPPED})
"""
"""sitecustomize of every Python of these tests: says what runs, and stops torchrun before torch is imported."""


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script with this test's Python; its own folder takes what is written."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)

    def start(
        shell: str, values: list[str], *, script: Path = DRIVER, cwd: Path = world, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        wanted = {"PYTHON": sys.executable, "MP_TOKENIZER_PATH": str(world / "tokenizer"), "MP_DEVICE": "cpu"}
        watch = {"PYTHONPATH": str(tmp_path / "watch"), "WATCH_LOG": str(tmp_path / "log")}
        return subprocess.run(
            [shell, str(script), *values],
            cwd=cwd,
            env={**kept, **wanted, **watch, **environ},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return start


def started_torchrun(tmp_path: Path) -> bool:
    """Whether any Python of this test was torchrun."""
    return "megatron_patch.torchrun" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_right_command_becomes_torchrun(
    shell: str, run: Callable[..., subprocess.CompletedProcess[str]], values: Callable[..., list[str]], tmp_path: Path
) -> None:
    """What the tests of wrong commands rest on: the watcher sees torchrun where there is one."""
    output = tmp_path / "new" / "out"
    result = run(shell, values(OUTPUT_BASEPATH=str(output)))
    assert result.returncode == STOPPED, result.stderr
    assert started_torchrun(tmp_path)
    assert {path.name for path in output.iterdir()} == {"plan.json", "command.txt", "logs"}
    assert "10240 tokens / (8 x 128) = 10 iterations" in result.stdout


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"TP": "3"}, "position 10 TP with position 2 MODEL_SIZE"),
        ({"DATASET_PATH": "absent"}, "position 20 DATASET_PATH"),
        ({"PR": "fp64", "LR": "-1"}, "position 5 LR"),
    ],
)
def test_a_wrong_command_starts_nothing(
    shell: str,
    changes: dict[str, str],
    message: str,
    run: Callable[..., subprocess.CompletedProcess[str]],
    values: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    result = run(shell, values(OUTPUT_BASEPATH=str(output), **changes))
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert not started_torchrun(tmp_path)
    assert not output.exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_without_values_the_first_missing_one_is_named(
    shell: str, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    result = run(shell, [])
    assert result.returncode == 2
    assert "0 of 25 values are given; missing: position 1 ENV" in result.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_dry_run_writes_nothing(
    shell: str,
    how: str,
    run: Callable[..., subprocess.CompletedProcess[str]],
    values: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    typed = values(OUTPUT_BASEPATH=str(tmp_path / "out"))
    result = run(shell, [*typed, "--dry-run"]) if how == "flag" else run(shell, typed, DRY_RUN="1")
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "out").exists()
    assert not started_torchrun(tmp_path)


def test_the_shown_command_can_be_pasted(
    run: Callable[..., subprocess.CompletedProcess[str]], values: Callable[..., list[str]], tmp_path: Path
) -> None:
    """A shell reads from the dry run what the real start would have become, odd characters included."""
    odd = values(OUTPUT_BASEPATH=str(tmp_path / "it's $(touch pwned) out"), DATASET_PATH="with space")
    shown = run("sh", odd, DRY_RUN="1")
    command = shown.stdout.split("\ncommand\n")[1]
    assert (
        subprocess.run(
            ["sh", "-c", command], env={**os.environ, "WATCH_LOG": str(tmp_path / "log")}, cwd=tmp_path, timeout=300
        ).returncode
        == STOPPED
    )
    pasted = (tmp_path / "log").read_text().splitlines()[-1]
    run("sh", odd)
    assert (tmp_path / "log").read_text().splitlines()[-1] == pasted
    assert (tmp_path / "it's $(touch pwned) out" / "command.txt").read_text().strip() == command.strip()


HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "a b  c",
    "it's",
    '"quoted"',
    "a\nb",
    "*",
    "\\",
    "-x",
    "&",
]


@pytest.mark.parametrize("shell", SHELLS)
def test_metacharacters_are_data(
    shell: str,
    run: Callable[..., subprocess.CompletedProcess[str]],
    values: Callable[..., list[str]],
    tmp_path: Path,
    world: Path,
) -> None:
    """Every position gets every hostile text once (spread over a few command lines): refused, or taken literally."""
    clean = values(OUTPUT_BASEPATH=str(tmp_path / "out"))
    before = sorted(path.name for path in world.iterdir())
    for shift, _ in enumerate(HOSTILE):
        hostile = [HOSTILE[(index + shift) % len(HOSTILE)] for index in range(len(clean))]
        assert run(shell, hostile, cwd=world).returncode == 2
    assert sorted(path.name for path in world.iterdir()) == before
    assert not started_torchrun(tmp_path)


@pytest.mark.parametrize("shell", SHELLS)
def test_odd_names_that_exist_are_used(
    shell: str, run: Callable[..., subprocess.CompletedProcess[str]], values: Callable[..., list[str]], world: Path
) -> None:
    typed = values(DATASET_PATH="$(touch pwned)", VALID_DATASET_PATH="with space")
    result = run(shell, typed, DRY_RUN="1")
    assert result.returncode == 0, result.stderr
    assert f"--train-data-path '{world}/$(touch pwned)'" in result.stdout
    assert f"--valid-data-path '{world}/with space'" in result.stdout
    assert not (world / "pwned").exists()


def test_any_working_directory(
    run: Callable[..., subprocess.CompletedProcess[str]], values: Callable[..., list[str]], tmp_path: Path, world: Path
) -> None:
    """Relative values are relative to where one stands; a module of that folder does not take the place of Python's."""
    here = tmp_path / "here"
    here.mkdir()
    for module in ("json", "dataclasses", "megatron_patch", "typing"):
        (here / f"{module}.py").write_text("raise SystemExit('imported from the working directory')")
    (here / "data").symlink_to(world)
    typed = values(DATASET_PATH="data/text", VALID_DATASET_PATH="data/valid", OUTPUT_BASEPATH="out")
    result = run("sh", typed, cwd=here, DRY_RUN="1")
    assert result.returncode == 0, result.stderr
    assert f"--output-dir {here.resolve()}/out" in result.stdout
    assert f"--train-data-path {here.resolve()}/data/text" in result.stdout


def test_other_names_of_the_script(
    run: Callable[..., subprocess.CompletedProcess[str]], values: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Pai's second name, a link to the script, a link in a folder of its own, and a path without a folder."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "train").symlink_to(DRIVER)
    (tmp_path / "bin" / "again").symlink_to("train")

    def command(script: Path) -> str:
        return run("sh", values(), script=script, DRY_RUN="1").stdout.partition("\ncommand\n")[2]

    expected = command(DRIVER)
    assert expected
    for script in (SCRIPTS / "run_mcore_llama.sh", tmp_path / "bin" / "train", tmp_path / "bin" / "again"):
        assert command(script) == expected, script
    here = run("sh", ["--help"], script=Path(DRIVER.name), cwd=SCRIPTS)
    assert here.returncode == 0, here.stderr


def test_which_python_runs(run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """$PYTHON before an active environment; neither there: a plain error that says how to get one."""
    environment = tmp_path / "venv" / "bin"
    environment.mkdir(parents=True)
    (environment / "python").symlink_to(sys.executable)
    assert run("sh", ["--help"], PYTHON="", VIRTUAL_ENV=str(environment.parent)).returncode == 0
    assert str(environment / "python") in (tmp_path / "log").read_text()
    missing = run("sh", ["--help"], PYTHON=str(tmp_path / "absent"))
    assert missing.returncode != 0
    assert "make setup" in missing.stderr
    unreadable = tmp_path / "home" / "python3.12"  # of whoever made the environment
    unreadable.parent.mkdir()
    unreadable.touch(0o600)
    (environment / "python").unlink()
    (environment / "python").symlink_to(unreadable)
    for language, told in (("en", f"leads to {unreadable}, which "), ("zh", f"指向 {unreadable}，用户")):
        found = run("sh", ["--help"], PYTHON="", VIRTUAL_ENV=str(environment.parent), MP_LANG=language)
        assert found.returncode != 0 and told in found.stderr, found.stderr


def test_an_empty_output_folder_name_with_a_dash(
    run: Callable[..., subprocess.CompletedProcess[str]], values: Callable[..., list[str]], tmp_path: Path
) -> None:
    """A value that looks like a flag is a value."""
    result = run("sh", values(OUTPUT_BASEPATH="--output"), DRY_RUN="1")
    assert result.returncode == 0, result.stderr
    assert "/--output/checkpoints" in result.stdout


def test_a_folder_that_cannot_be_written_is_a_sentence(
    values: Callable[..., list[str]], tmp_path: Path, world: Path
) -> None:
    """No file may grow, as on a full disk: said in a line, and nothing is left half-written."""
    code = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
        "from megatron_patch.launch.driver import main; sys.exit(main(sys.argv[1:], os.environ))"
    )
    output = tmp_path / "out"
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "MP_DEVICE": "cpu",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *values(OUTPUT_BASEPATH=str(output))],
        cwd=world,
        env=environ | {"MP_TOKENIZER_PATH": "tokenizer"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"nothing was started: {output} cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(output.glob("*.json")) and not list(output.glob("*.partial"))
