"""`megatron-patch`, from a wheel in an environment of its own, and its table."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from megatron_patch import __version__
from megatron_patch.cli import COMMANDS, completion, main
from megatron_patch.common.messages import Message
from megatron_patch.common.texts import LANGUAGES
from megatron_patch.common.tools import SCRIPTS, tool

ROOT = Path(__file__).resolve().parents[1]
TOOL = re.compile(r"\{tool:([a-z ]+)\}")
FLAGS = ("train", "--dry-run"), ("plan", "--gpus"), ("convert", "--per-rank-files"), ("data pretrain", "--overwrite")


def build_wheel(folder: Path) -> Path:
    """From a copy: setuptools leaves build/ where it builds."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "megatron_patch", source / "megatron_patch", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, str(source)], check=True, timeout=200)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_wheel_has_its_files_and_its_command_runs(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    tracked = subprocess.check_output(["git", "ls-files", "megatron_patch"], cwd=ROOT, text=True).split()
    assert set(tracked) <= set(zipfile.ZipFile(wheel).namelist())
    venv.create(tmp_path / "venv", with_pip=False)
    packages = next((tmp_path / "venv" / "lib").glob("python3*")) / "site-packages"
    pip = [sys.executable, "-m", "pip", "-q", "--python", str(tmp_path / "venv" / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=200)
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def said(*words: str, status: int = 0) -> str:
        command = [str(tmp_path / "venv" / "bin" / "megatron-patch"), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env={"PATH": "/bin"})
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert said("--version") == f"megatron-patch {__version__}\n"
    predicted = said("plan", "qwen3-8B", "--gpus", "8", "--global-batch", "128")
    assert "tokens/s" in predicted and "megatron-patch train dsw qwen3-8B" in predicted and ".sh" not in predicted
    assert "usage: megatron-patch doctor" in said("doctor", "--help")
    assert said("train", "--help").startswith("megatron-patch train ENV MODEL_SIZE")
    assert "usage: megatron-patch convert POSITIONS" in said("convert", "--help")
    old = tmp_path / "old" / "iter_0000001" / "mp_rank_00"
    old.mkdir(parents=True)
    (old / "model_optim_rng.pt").write_bytes(b"")
    (old.parents[1] / "latest_checkpointed_iteration.txt").write_text("1")
    shape, rest = "1 8 1e-5 1e-6 128 128 bf16 1 1 1", "false false true false false false 100 x x old 9 1 out"
    refused = said("train", "dsw", "1B", *shape.split(), *rest.split(), "--dry-run", status=2)
    assert "with `megatron-patch convert --direction mcore2mcore`" in refused and ".sh" not in refused, refused
    assert "from a checkout" in said("train", "slurm", status=2)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module(name: str) -> None:
    base = ROOT / "megatron_patch" / COMMANDS[name].module.replace(".", "/")
    assert base.with_suffix(".py").is_file() or (base / "__main__.py").is_file()


def test_tools_are_called_what_this_installation_has(tmp_path: Path) -> None:
    named = {tool for texts in LANGUAGES.values() for text in texts.values() for tool in TOOL.findall(str(text))}
    assert named == set(SCRIPTS) and named <= set(COMMANDS)
    for name, script in SCRIPTS.items():
        assert all((ROOT / word).is_file() for word in script.split() if "/" in word)
        assert tool(name) == f"sh {script}" and tool(name, tmp_path) == f"megatron-patch {name}"
    assert "`sh toolkits/model_checkpoints_convertor" in str(Message("checkpoint-per-rank", folder="old"))


@pytest.mark.parametrize("words", [["tain"], ["data"], ["data", "sfd"], []])
def test_what_is_not_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert words == [] or words[-1] in said.err
    assert "sft" in said.err + said.out or "convert" in said.err


def test_help_of_a_group_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS if name.startswith("data ")) and "  chat " not in said


def test_exit_status_is_the_command_s() -> None:
    for words, status in ((["plan", "no-such-size"], 2), (["verify", "/no/such/folder"], 2), (["watch", "/no"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "megatron_patch.cli", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["verify"], 2, "required: FOLDER"),
        (["verify", "a", "b"], 2, "unrecognized arguments: b"),
        (["verify", "--foo", "a"], 2, "unrecognized arguments: --foo"),
        (["verify", "--help"], 0, "usage: megatron-patch verify [-h] FOLDER"),
    ],
)
def test_verify_takes_one_folder(words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == status
    shown = capsys.readouterr()
    assert said in shown.out + shown.err


@pytest.mark.slow
def test_completion_completes() -> None:
    script = subprocess.check_output([sys.executable, "-m", "megatron_patch.cli", "completion", "bash"], cwd=ROOT)

    def reply(*words: str) -> list[str]:
        typed = " ".join(f"'{word}'" for word in ("megatron-patch", *words))
        ask = f"\nCOMP_WORDS=({typed}); COMP_CWORD={len(words)}; _megatron_patch; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        return subprocess.check_output(["bash", "-c", script.decode() + ask], text=True, cwd=ROOT).split()

    assert reply("ev") == ["evaluate"]
    assert reply("data", "sf") == ["sft"]
    for name, flag in FLAGS:
        assert reply(*name.split(), flag[:-1]) == [flag]
    assert "requirements.txt" in reply("watch", "requirements.t")


def test_zsh_loads_bash_s_completion_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_patch.cli.flags_of", lambda command: ["--x"])
    assert "bashcompinit" in completion("zsh") and "bashcompinit" not in completion("bash")


def test_gpu_extra_is_requirements_gpu() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"]
    lines = (ROOT / "requirements-gpu.txt").read_text().splitlines()
    assert extra == [line for line in lines if line and line[0] not in "#-"]
