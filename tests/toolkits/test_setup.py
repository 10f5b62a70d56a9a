"""Set-up from a bare machine: finding Python 3.12, what is installed when, and what `make` and CI run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.common.messages import language_of

ROOT = Path(__file__).resolve().parents[2]
SH = shutil.which("sh") or "/bin/sh"
BASE = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
"""The interpreter that this environment was made from."""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{SH}\n{text}\n")
    path.chmod(0o755)
    return path


def wrapper(path: Path) -> Path:
    """A `python3.12` that works."""
    return script(path, f'exec "{BASE}" "$@"')


def find_python(path: Path, **environment: object) -> subprocess.CompletedProcess[str]:
    tools = path / "tools"  # the script's own needs, and no other program of this machine
    tools.mkdir(parents=True, exist_ok=True)
    (tools / "cat").symlink_to(shutil.which("cat") or "/bin/cat")
    variables = {"PATH": f"{path / 'bin'}:{tools}", "HOME": str(path / "home")}
    variables |= {name: str(value) for name, value in environment.items()}
    command = [SH, str(ROOT / "toolkits" / "find_python.sh")]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


def assert_finds_base(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).resolve() == BASE


def test_python_on_path(tmp_path: Path) -> None:
    wrapper(tmp_path / "bin" / "python3.12")
    assert_finds_base(find_python(tmp_path))


def test_a_broken_shim_hides_nothing(tmp_path: Path) -> None:
    shims = tmp_path / "shims"
    for name in ("python3.12", "python3", "python"):
        script(shims / name, "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    wrapper(tmp_path / "bin" / "python3.12")
    assert_finds_base(find_python(tmp_path, PATH=f"{shims}:{tmp_path / 'bin'}:{tmp_path / 'tools'}"))


def test_another_python3_is_not_taken(tmp_path: Path) -> None:
    script(tmp_path / "bin" / "python3", 'case "$2" in *version_info*) exit 1;; esac')
    wrapper(tmp_path / "home" / ".pyenv" / "versions" / "3.12.9" / "bin" / "python3.12")
    assert_finds_base(find_python(tmp_path))


def test_pyenv_in_another_place(tmp_path: Path) -> None:
    wrapper(tmp_path / "py env" / "versions" / "3.12.1" / "bin" / "python3.12")
    assert_finds_base(find_python(tmp_path, PYENV_ROOT=tmp_path / "py env"))


def test_uv_is_asked_last(tmp_path: Path) -> None:
    python = wrapper(tmp_path / "managed" / "python3.12")
    script(
        tmp_path / "bin" / "uv",
        f'case "$2" in install) echo yes >"{tmp_path}/installed";; '
        f'find) [ -f "{tmp_path}/installed" ] && echo "{python}";; esac',
    )
    done = find_python(tmp_path)
    assert_finds_base(done)
    assert "asking uv to install one" in done.stderr


def test_none_at_all_says_how_to_get_one(tmp_path: Path) -> None:
    done = find_python(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    for way in ("apt-get install python3.12", "pyenv install 3.12", "uv python install 3.12"):
        assert way in done.stderr


def test_debians_python_without_venv(tmp_path: Path) -> None:
    fake = f'case "$2" in *ensurepip*) exit 1;; *_base_executable*) echo "{tmp_path}/bin/python3.12";; esac'
    script(tmp_path / "bin" / "python3.12", fake)
    done = find_python(tmp_path)
    assert done.returncode == 1 and "apt-get install python3.12-venv" in done.stderr


def test_a_gpu_without_a_compiler_is_told_before_anything_is_installed(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(ROOT / "toolkits", copy / "toolkits")
    for name in ("requirements.txt", "requirements-gpu.txt"):
        shutil.copy(ROOT / name, copy)
    if shutil.which("nvcc", path="/usr/bin:/bin"):
        pytest.skip("nvcc is among the system's programs here")
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CUDA_HOME": str(tmp_path / "none")}
    done = subprocess.run(
        [SH, "toolkits/setup.sh", "--gpu"], cwd=copy, env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    assert "compiled here" in done.stdout + done.stderr and "no nvcc" in done.stderr
    assert not (copy / ".venv").exists()


def test_setup_refuses_unknown_options() -> None:
    done = subprocess.run([SH, str(ROOT / "toolkits/setup.sh"), "--gpus"], capture_output=True, text=True)
    assert done.returncode == 2 and "'--gpus'" in done.stderr and "--gpu" in done.stderr


def test_python_door_says_what_is_missing(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "VIRTUAL_ENV")}
    shutil.copytree(ROOT / "toolkits", tmp_path / "toolkits", ignore=shutil.ignore_patterns("__pycache__"))
    command = [SH, str(tmp_path / "toolkits" / "python.sh"), "-c", "pass"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "make setup" in done.stderr
    for chosen in ({"PYTHON": sys.executable}, {"VIRTUAL_ENV": sys.prefix}):
        subprocess.run(command, env=environment | chosen, check=True)


def make(*arguments: str, **more: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")} | more
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_make_has_every_target() -> None:
    listed = make("help")
    for target in ("setup", "quickstart", "test", "test-all", "test-gpu", "check", "clean"):
        assert f"make {target} " in listed
        assert make("-n", target)


def test_make_help_is_in_the_users_language() -> None:
    english, chinese = (
        make("help", MP_LANG="en").splitlines(),
        make("help", LC_ALL="zh_CN.UTF-8", MP_LANG="").splitlines(),
    )
    assert [line.split()[:2] for line in english] == [line.split()[:2] for line in chinese]
    assert len(english) == len(re.findall(r"^[a-z-]+:.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert all(line.isascii() for line in english), english
    assert all(re.search("[\u4e00-\u9fff]", line) or "ruff" in line for line in chinese), chinese


@pytest.mark.parametrize("target", ["setup", "quickstart", "test", "check"])
def test_make_installs_first_unless_given_a_python(target: str) -> None:
    assert "sh toolkits/setup.sh" in make("-n", target).splitlines()[0]
    given = make("-n", target, f"PYTHON={sys.executable}")
    assert "nothing is installed" in given
    assert not any(line.startswith("sh toolkits/setup.sh") for line in given.splitlines())


def test_a_package_nobody_asked_for_is_found(tmp_path: Path) -> None:
    stranger = tmp_path / "stranger-1.0.dist-info"
    stranger.mkdir()
    (stranger / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "toolkits" / "check_installed.py")],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "stranger" in done.stderr
    assert "torch" not in done.stderr.split(":")[-1].replace(" ", "").split(",")


@pytest.mark.parametrize(
    ("variables", "chinese"),
    [
        ({"MP_LANG": "zh"}, True),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW"}, True),
        ({"MP_LANG": "fr", "LC_ALL": "zh"}, True),
        ({"LANG": "zh_CN.UTF-8", "MP_LANG": "en"}, False),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({}, False),
    ],
)
def test_scripts_speak_the_language_that_python_would(tmp_path: Path, variables: dict[str, str], chinese: bool) -> None:
    """As `language_of`; before there is a Python."""
    assert (language_of(variables) == "zh") is chinese
    setup = [SH, str(ROOT / "toolkits/setup.sh"), "--gpus"]
    said = [
        find_python(tmp_path, **variables).stderr,
        subprocess.run(setup, env={"PATH": "/usr/bin:/bin", **variables}, capture_output=True, text=True).stderr,
    ]
    for text in said:
        sentence = text.splitlines()[0]
        assert bool(re.search("[\u4e00-\u9fff]", sentence)) is chinese, text
        assert bool(re.search("no working Python|unknown option", sentence)) is not chinese, text


def test_every_sentence_of_a_script_is_there_in_both_languages() -> None:
    """What setup says goes through `either`, `say` or `fail`, each with an English and a Chinese text."""
    calls = re.compile(r"(?<![\w-])(?:either|say|fail) (\"(?:[^\"\\]|\\.)*\"|'[^']*')((?:\s|\\\n)+(?:\"|'))?")
    for name in ("setup", "find_python", "container_setup", "python"):
        text = (ROOT / "toolkits" / f"{name}.sh").read_text(encoding="utf-8")
        found = [call for call in calls.finditer(text) if call[1] not in ('"$1"',)]
        assert found and all(call[2] for call in found), (name, [call[0] for call in found if not call[2]])
        assert not re.search(r"^\s*echo [\"'][^$]", text, re.MULTILINE), name


@pytest.mark.slow
def test_setup_from_nothing_again_and_after_a_kill(tmp_path: Path) -> None:
    """Installs for real: needs a package index or a warm cache."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "VIRTUAL_ENV")}
    environment["VENV"] = str(tmp_path / "venv")
    command = [SH, str(ROOT / "toolkits" / "setup.sh"), "--cpu"]

    def setup() -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    while "installing" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    said = setup()
    assert "half-made" in said and "is ready" in said
    assert "already" in setup()
    (tmp_path / "venv" / "bin" / "python").unlink()
    said = setup()
    assert "no working Python 3.12" in said and "is ready" in said
