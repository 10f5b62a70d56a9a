"""What a checkpoint can be refused for."""

from __future__ import annotations

from megatron_patch.common.errors import Refusal


class CheckpointError(Refusal):
    """A checkpoint, or a folder of weights, that cannot be used."""
