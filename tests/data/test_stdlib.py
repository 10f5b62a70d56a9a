"""The corpora of the quickstart: real text and real conversations from this Python's own library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.data.stdlib_docstrings import conversations, write_conversations
from megatron_patch.data.stdlib_text import write_corpus

ROOT = Path(__file__).parents[2]
SOURCE = '''
@decorated
async def fetch(url: str, *, retries=3) -> bytes:
    """Get it.

        Indented.
    """

class Box(list, metaclass=Meta):
    """A list that counts."""

    def quiet(self):
        return 1

    def short(self):
        "Short."
'''


def test_signatures_and_clean_docstrings() -> None:
    box, fetch = sorted(conversations("net.py", SOURCE), key=lambda row: row["output"])
    assert fetch["instruction"] == "# net.py\nasync def fetch(url: str, *, retries=3) -> bytes"
    assert box == {"instruction": "# net.py\nclass Box(list, metaclass=Meta)", "output": "A list that counts."}
    assert fetch["output"] == "Get it.\n\nIndented."


def test_the_same_files_are_held_out(tmp_path: Path) -> None:
    """What the model is tested on after finetuning was not in its pretraining either."""
    write_corpus(tmp_path / "text")
    write_conversations(tmp_path / "conversations")

    def files(path: Path) -> set[str]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return {row["path"] if "path" in row else row["instruction"].splitlines()[0][2:] for row in rows}

    assert len(files(tmp_path / "text" / "valid.jsonl")) > 10
    assert files(tmp_path / "conversations" / "valid.jsonl") <= files(tmp_path / "text" / "valid.jsonl")
    assert files(tmp_path / "conversations" / "train.jsonl") <= files(tmp_path / "text" / "train.jsonl")


@pytest.mark.parametrize("module", ["stdlib_text", "stdlib_docstrings"])
@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["--folder", "x"], 2), ([], 2)])
def test_a_flag_is_no_folder(tmp_path: Path, module: str, words: list[str], status: int) -> None:
    """`--help` wrote 9 MB into a folder of that name."""
    command = [sys.executable, "-m", f"megatron_patch.data.{module}", *words]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status and "usage:" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
