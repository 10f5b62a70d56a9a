"""Tensors that are made while they are written: the bytes are torch.save's own, and errors come through its C++."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import torch
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from megatron_patch.backend.saving import dcp_writer
from megatron_patch.backend.saving.dcp_writer import Streamed, without_crc32, write_items
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats.sources import bytes_of


@pytest.fixture(autouse=True, params=["in memory", "into the file"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes one way or the other by its size."""
    monkeypatch.setattr(dcp_writer, "SMALL_BYTES", {"in memory": 1 << 30, "into the file": 0}[request.param])


def written(content: object) -> bytes:
    """The file of one item."""
    stream, item = io.BytesIO(), WriteItem(MetadataIndex("name"), WriteItemType.SHARD)
    with without_crc32():
        (result,) = write_items(stream, "file", [(item, lambda: content)])
    assert result.size_in_bytes == len(stream.getvalue())
    return stream.getvalue()


def streamed(tensor: torch.Tensor, parts: Iterator[memoryview]) -> Streamed:
    return Streamed(dtype=tensor.dtype, shape=tuple(tensor.shape), parts=parts)


def cut(tensor: torch.Tensor, step: int) -> Iterator[memoryview]:
    """Its bytes in parts; each is overwritten when the next is made, as a thread's memory is."""
    whole, kept = bytes_of(tensor), bytearray(step)
    for first in range(0, len(whole), step):
        part = whole[first : first + step]
        kept[: len(part)] = part
        yield memoryview(kept)[: len(part)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1,), (3, 7), (1, 5, 4099), (2, 1000)])
def test_the_bytes_are_those_of_the_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randn(shape).to(dtype)
    with without_crc32():
        torch.save(tensor, whole := io.BytesIO())
    assert written(tensor) == written(streamed(tensor, cut(tensor, 1000))) == whole.getvalue()


def test_what_goes_wrong_while_it_is_made_is_raised() -> None:
    tensor = torch.ones(4000)

    def parts() -> Iterator[memoryview]:
        yield bytes_of(tensor)[:800]
        raise CheckpointError("manifest-missing")

    with pytest.raises(CheckpointError):
        written(streamed(tensor, parts()))


@pytest.mark.parametrize("nbytes", [0, 15_000, 17_000])
def test_other_than_its_bytes_are_refused(nbytes: int) -> None:
    with pytest.raises(RuntimeError, match=f"^{nbytes} bytes were made of a tensor of 16000$"):
        written(streamed(torch.ones(4000), iter([memoryview(bytes(nbytes))])))
