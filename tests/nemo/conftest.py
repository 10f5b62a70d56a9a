"""A working directory as the NeMo tutorials leave it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..data.conftest import corpus, tokenizer_folder  # noqa: F401  # fixtures
from ..launch.conftest import surroundings, values, world  # noqa: F401  # fixtures


@pytest.fixture
def folders(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tokenizer, checkpoints, a folder of idxmaps and one of conversations."""
    for name in ("tokenizer", "hf-8B", "hf-tiny", "mcore-tp4-pp2"):
        (tmp_path / name).symlink_to(world / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "alpaca").mkdir()
    for name in ("text", "more"):
        for suffix in (".bin", ".idx"):
            (tmp_path / "data" / f"{name}{suffix}").symlink_to(world / f"{name}{suffix}")
    rows = "".join(json.dumps({"input": f"q{n}", "output": "a"}) + "\n" for n in range(20))
    for name in ("training", "validation", "test"):
        (tmp_path / "alpaca" / f"{name}.jsonl").write_text(rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path
