"""Copies in RAM of what a checkpoint is made of."""

from __future__ import annotations

import contextlib
import io
from types import SimpleNamespace

import pytest
import torch

from megatron_patch.backend.saving import host_copies
from megatron_patch.backend.saving.optimizer_shards import Remainders


def test_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its own shape and precision, made in pieces; the next checkpoint's go into the same memory."""
    monkeypatch.setattr(host_copies, "PIECE_BYTES", 128)
    monkeypatch.setattr(host_copies.Copier, "_stream", lambda *_: contextlib.nullcontext())  # a GPU's
    halves = Remainders(
        weights=torch.randn(6, 11).bfloat16(), low=torch.randint(-32768, 32767, (6, 11), dtype=torch.int16)
    )
    contents = [halves, torch.randn(5, 13).bfloat16().t(), torch.tensor(3.0), io.BytesIO(b"x")]
    copier = host_copies.Copier()

    def copied() -> list[object]:
        files = [[(SimpleNamespace(index=number), content) for number, content in enumerate(contents)]]
        ((items),) = copier.copy(files, None, lambda: None)  # type: ignore[arg-type]
        return [make() for _, make in items]

    first = copied()
    assert torch.equal(first[0], halves.in_fp32())
    assert all(torch.equal(copy, content) for copy, content in zip(first[1:3], contents[1:3], strict=True))
    assert first[3] is contents[3]
    contents[1] = contents[1] + 1
    second = copied()
    assert torch.equal(second[1], contents[1]) and second[1].data_ptr() == first[1].data_ptr()
