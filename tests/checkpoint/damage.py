"""Ways to damage what is converted, and to see it refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.checkpoint.cli import main

Change = Callable[[Path], object]


def refused(folder: Path, source: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Convert, expect exit 2 and nothing written, and give what was said."""
    before = sorted(folder.iterdir())
    capsys.readouterr()
    assert main(["--source", str(source), "--output-path", str(folder / "target"), *more]) == 2
    assert sorted(folder.iterdir()) == before, "something was left behind"
    return capsys.readouterr().err


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def fill(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


def truncate(file: Path, by: int) -> None:
    os.truncate(file, file.stat().st_size - by)


class Attack:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.command = f"touch {file}"

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)
