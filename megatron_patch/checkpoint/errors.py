"""What a checkpoint can be refused for, and how messages tell of tensors."""

from __future__ import annotations

from collections.abc import Iterable

from megatron_patch.common.errors import Refusal
from megatron_patch.common.messages import Message


class CheckpointError(Refusal):
    """A checkpoint, or a folder of weights, that cannot be used."""


def sizes(shape: Iterable[int]) -> str:
    """A shape: `[2, 3]`."""
    return str(list(shape))


def of_layer(tensor: str, layer: int | None) -> str | Message:
    """A tensor, or one layer of those that are stacked over layers."""
    return tensor if layer is None else Message("of-layer", tensor=tensor, layer=layer)
