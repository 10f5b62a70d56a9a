"""Each family's own script: the same 25 values, its sizes by their bare names, and no launch logic."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.models import families

SCRIPTS = {
    path.stem.removeprefix("run_mcore_"): path
    for path in sorted((REPOSITORY / "examples").glob("*/run_mcore_*.sh"))
    if path.stem not in ("run_mcore_llama", "run_mcore_qwen")  # Pai-Megatron-Patch's names of scripts that are here
}
CONVERTERS = {
    path.stem.removeprefix("hf2mcore_convertor_"): path
    for path in sorted((REPOSITORY / "toolkits" / "model_checkpoints_convertor").glob("*/hf2mcore_convertor_*.sh"))
}


def run(script: Path, arguments: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MP_")}
    command = ["sh", str(script), *arguments]
    environ = {**inherited, **environ, "DRY_RUN": "1", "PYTHON": sys.executable}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)


def test_every_script_is_of_a_family() -> None:
    assert len(SCRIPTS) > 1 and set(SCRIPTS) <= set(families())
    assert len(CONVERTERS) > 1 and set(CONVERTERS) <= set(families())


@pytest.mark.parametrize("family", SCRIPTS)
def test_bare_sizes_are_the_familys(
    family: str, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """From any folder, through a link; and another family's by its full name."""
    link = tmp_path / "a link.sh"
    link.symlink_to(SCRIPTS[family])
    *_, largest = families()[family].sizes
    for size, name in ((largest, families()[family].sizes[largest].name), ("tanuki-light", "tanuki-light")):
        done = run(link, values(MODEL_SIZE=size, TP="8"[: size == largest] or "1"), surroundings(MP_DEVICE="cuda"))
        assert done.returncode == 0, done.stderr
        assert f"{name}: " in done.stdout


@pytest.mark.parametrize("family", SCRIPTS)
def test_help_is_the_scripts_own(family: str) -> None:
    """Its name, and a size that it has; and with too few values."""
    for words, status in ((["--help"], 0), (["dsw"], 2)):
        done = run(SCRIPTS[family], words, {})
        said = done.stdout + done.stderr
        assert done.returncode == status and said.startswith(f"sh {SCRIPTS[family].name} ENV"), said
        assert all(path.name == SCRIPTS[family].name or path.name not in said for path in SCRIPTS.values())
    for converter in [CONVERTERS[family]] if family in CONVERTERS else []:
        assert f"usage: {converter.name} " in run(converter, ["--help"], {}).stdout


@pytest.mark.parametrize("family", ["no-family", "$(id)"])
def test_an_unknown_family_is_refused(family: str) -> None:
    for script in (SCRIPTS["llama3_1"], CONVERTERS["llama3_1"]):
        done = run(script, ["--family", family, "8B"], {})
        assert done.returncode == 2 and "--family" in done.stderr and "qwen3" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("family", SCRIPTS)
def test_a_bare_size_of_another_family_is_refused(
    family: str, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    done = run(SCRIPTS[family], values(MODEL_SIZE="405B" if family != "llama3_1" else "72B"), surroundings())
    assert done.returncode == 2 and "MODEL_SIZE" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("family", [name for name in SCRIPTS if name != "llama3_1"])
def test_a_script_says_its_family_and_nothing_else(family: str) -> None:
    for script in (SCRIPTS[family], *([CONVERTERS[family]] if family in CONVERTERS else [])):
        lines = [line for line in script.read_text().splitlines() if not line.startswith("#")]
        assert len(lines) == 1 and f'--family {family} "$@"' in lines[0]
    readmes = [SCRIPTS[family].with_name(name).read_text() for name in ("README.md", "README_zh-CN.md")]
    assert all(f"{SCRIPTS[family].name} dsw" in text for text in readmes)


@pytest.mark.parametrize("family", CONVERTERS)
def test_the_converters_sizes(family: str, tmp_path: Path) -> None:
    """A size that is another family's is refused before a folder is looked at; the family's own is not."""
    size = list(families()[family].sizes)[-1]
    positions = [str(tmp_path / "absent"), str(tmp_path / "target"), "1", "1", "false", "false", "false", "bf16"]
    for arguments in ([size, *positions], ["--model-name", size, "--source", positions[0], "--output-path", "x"]):
        done = run(CONVERTERS[family], arguments, {})
        assert done.returncode == 2 and "absent: no such folder" in done.stderr, done.stderr
    done = run(CONVERTERS[family], ["13B", *positions], {})
    assert done.returncode == 2 and "MODEL_SIZE" in done.stderr
