"""The launch wing stays quick because it imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from megatron_patch.launch.command import REPOSITORY

HEAVY = {"torch", "megatron", "transformers", "tokenizers", "safetensors", "numpy", "omegaconf", "rich", "argparse"}
HEAVY |= {"zstandard", "pyarrow", "jinja2"}

MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for wing in ("launch", "models")
    for path in (REPOSITORY / "megatron_patch" / wing).rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


def imported_by(code: str, *arguments: str) -> set[str]:
    """Top-level modules in memory after running some code in a fresh Python."""
    show = "import sys; sys.stderr.write(' '.join(sys.modules))"
    command = [sys.executable, "-c", f"{code}\n{show}", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=True)
    return {name.split(".")[0] for name in run.stderr.split()}


def test_every_module_of_the_wing_is_light() -> None:
    assert MODULES
    assert not imported_by(f"import {', '.join(MODULES)}") & HEAVY


def test_a_whole_dry_run_is_light(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """Also what is imported late, in functions."""
    start = f"assert main(sys.argv[1:], {surroundings(DRY_RUN='1')!r}) == 0"
    code = f"import os, sys\nfrom megatron_patch.launch.driver import main\nos.chdir({str(Path.cwd())!r})\n{start}"
    assert not imported_by(code, *values()) & HEAVY


def test_the_watcher_sees_what_it_should() -> None:
    """`imported_by` would notice: what is imported is found."""
    assert {"numpy", "rich"} <= imported_by("import numpy, rich")
