"""NaN and infinity are told from their bits: every number of 16 bits, and what is at the edge in 32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats.sources import BlockMaker, Source
from megatron_patch.models.weight_map import Span, Tensor


class Bits(Source):
    """A tensor of given bits."""

    def __init__(self, numbers: torch.Tensor, name: str) -> None:
        self._numbers, self._name = numbers, name

    def element_type(self, name: str) -> str:
        return self._name

    def read_rows(self, name: str, layer: int | None, start: int, out: torch.Tensor) -> None:
        out.copy_(self._numbers[start : start + len(out)])

    def read_bytes(self, name: str, layer: int | None, start: int, rows: int, view: memoryview) -> bool:
        view[:] = memoryview(self._numbers[start : start + rows].view(torch.uint8).numpy()).cast("B")
        return True


def refused(numbers: torch.Tensor, name: str) -> str | None:
    """The code of what is said; None where the numbers are taken, and come out as they are."""
    span = Span(name="w", start=0, rows=len(numbers))
    tensor = Tensor(name="w", rows=len(numbers), row_shape=(), spans=(span,))
    maker = BlockMaker(Bits(numbers, name), numbers.dtype, Path("folder"))
    try:
        made = b"".join(bytes(chunk) for chunk in maker.chunks(tensor, 0, len(numbers)))
    except CheckpointError as error:
        return error.messages[0].told.code
    assert made == numbers.view(torch.uint8).numpy().tobytes()
    return None


@pytest.mark.parametrize(("name", "dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
def test_every_number_of_16_bits(name: str, dtype: torch.dtype) -> None:
    every = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16)).view(dtype)
    finite = torch.isfinite(every)
    assert refused(every[finite], name) is None
    for number in every[~finite]:
        among = torch.cat([every[finite][:5], number[None], every[finite][-5:]])
        assert refused(among, name) == ("value-nan" if number.isnan() else "value-infinite"), number


@pytest.mark.parametrize(
    ("bits", "code"),
    [(0x7F7F_FFFF, None), (0x7F80_0000, "value-infinite"), (0x7F80_0001, "value-nan"), (0x7FFF_FFFF, "value-nan"),
     (0xFF7F_FFFF, None), (0xFF80_0000, "value-infinite"), (0xFF80_0001, "value-nan"), (0xFFFF_FFFF, "value-nan"),
     (0x8000_0000, None), (0, None)],
)  # fmt: skip
def test_the_edges_of_32_bits(bits: int, code: str | None) -> None:
    numbers = torch.from_numpy(np.array([0, bits, 0x3F80_0000], dtype=np.uint32).view(np.float32))
    assert refused(numbers, "F32") == code
