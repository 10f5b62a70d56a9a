"""A checkpoint that nothing is wrong with."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_patch.checkpoint.cli import main

from .models import SMALL, make_model


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hf` in several shards, and `megatron`; tests do not write into it."""
    folder = tmp_path_factory.mktemp("good")
    hf = make_model(folder / "hf", SMALL, shard_bytes=100_000)
    assert main(["--source", str(hf), "--output-path", str(folder / "megatron")]) == 0
    return folder
