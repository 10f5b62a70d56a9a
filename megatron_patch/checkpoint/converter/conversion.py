"""What a conversion needs to know, in either direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from megatron_patch.checkpoint.formats.hf_folder import SAFETENSORS_DTYPES
from megatron_patch.checkpoint.formats.torch_dist import TORCH_DTYPES
from megatron_patch.models import VOCAB_ALIGNMENT, ModelConfig, padded_vocab_size
from megatron_patch.models.weight_map import Tensor, megatron_tensors, pad_vocabulary


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What both directions need to know."""

    model: ModelConfig
    vocab_size: int
    """Unpadded."""
    precision: str
    """fp32, fp16 or bf16: the element type written."""
    workers: int
    vocab_alignment: int = VOCAB_ALIGNMENT
    """The Megatron side has a multiple of so many rows of vocabulary."""
    before_publishing: Callable[[], object] = lambda: None
    """Called when everything is written; what it raises keeps the target from appearing."""

    @property
    def element_type(self) -> str:
        """As safetensors spells it."""
        return SAFETENSORS_DTYPES[self.precision]

    @property
    def dtype(self) -> torch.dtype:
        """As torch spells it."""
        return TORCH_DTYPES[self.element_type]

    def tensors(self) -> list[Tensor]:
        """The Megatron side, made of the Hugging Face side."""
        rows = padded_vocab_size(self.vocab_size, self.vocab_alignment)
        return pad_vocabulary(megatron_tensors(self.model, self.vocab_size), rows)
