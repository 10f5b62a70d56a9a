"""Checkpoints whose groups name classes: those of an optimizer in RAM, until 2026-11-27."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from megatron.core import safe_globals

from megatron_patch.backend.saving import restricted
from megatron_patch.backend.saving.errors import DamagedCheckpoint
from megatron_patch.backend.saving.optimizer_fixes import OFFLOADERS_OWN


class Other:
    """Of a checkpoint that somebody gives us."""


def stored(content: Any) -> io.BytesIO:
    stream = io.BytesIO()
    torch.save(content, stream)
    stream.seek(0)
    return stream


def test_they_are_read_and_can_be_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is no rate: what is read goes into the next checkpoint."""
    allowed = [(restricted._Placeholder, name) for name in restricted.OPTIMIZER_CLASSES]
    own = dict.fromkeys(OFFLOADERS_OWN, True) | {"cpu_optimizer_cls": torch.optim.AdamW}
    content = {"optimizer": {"param_groups": [{"lr": 1e-3, "step": 7, **own}, {"lr": 2.0, "fused": None}]}, "n": [1]}
    with torch.serialization.safe_globals([*safe_globals.SAFE_GLOBALS, *allowed]):
        read = restricted.load_object(stored(content), "common_state")
        assert read == {"optimizer": {"param_groups": [{"lr": 1e-3, "step": 7}, {"lr": 2.0, "fused": None}]}, "n": [1]}
        assert restricted.load_object(stored(read), "common_state") == read
        with pytest.raises(DamagedCheckpoint, match="Other"):
            restricted.load_object(stored({"cpu_optimizer_cls": Other}), "common_state")
