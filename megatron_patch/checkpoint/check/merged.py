"""The layer check of a merged folder: transformers' layers over base and adapters, against its layers over the folder.

The reference adds scale B A to each whole matrix in float64, which is not how `merge` does it, and rounds to the type
that the base is stored in. Computed in fp32, every part of every layer twice: over the same input, and accumulated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from megatron_patch.checkpoint.base_weights import Base
from megatron_patch.checkpoint.check.compare import ACCUMULATED, FP32_TOLERANCE, SAME, PartComparison, measure
from megatron_patch.checkpoint.check.hf import HFSide
from megatron_patch.checkpoint.check.megatron import LAYER_PARTS
from megatron_patch.checkpoint.check.report import CheckReport
from megatron_patch.checkpoint.check.text_sample import sample_tokens
from megatron_patch.checkpoint.formats.torch_dist import TORCH_DTYPES
from megatron_patch.common.progress import WorkBar
from megatron_patch.peft.settings import HF_MODULES, LoraSettings

if TYPE_CHECKING:
    from megatron_patch.peft.settings import Whole

ROUNDED_TOLERANCE = 2e-4
"""Relative L2 error where weights are stored in 16 bits: sums in fp32 and in float64 round apart in a few of them."""


class _AdaptedSide(HFSide):
    """The base, with the adapters added to each layer's matrices as it is loaded."""

    def __init__(self, base: Base, whole: Whole, settings: LoraSettings, stored: torch.dtype) -> None:
        super().__init__(base.model, base.config, base.source, stored)
        self._whole, self._settings, self._stored = whole, settings, stored

    def _load(self, module: torch.nn.Module, prefix: str, dtype: torch.dtype) -> Any:
        loaded = super()._load(module, prefix, dtype)
        if prefix.startswith("model.layers."):
            layer = int(prefix.split(".")[2])
            for target, (a, b) in self._whole[layer].items():
                weight = loaded.get_submodule(HF_MODULES[target]).weight
                merged = weight.double() + self._settings.scale_of(layer, target) * (b.double() @ a.double())
                weight.data.copy_(merged.to(self._stored))
        return loaded


@torch.no_grad()
def check_merged(base: Base, whole: Whole, settings: LoraSettings, merged: Base) -> CheckReport:
    """Run both over real tokens, on the CPU, one layer in memory at a time.

    Args:
        whole: A and B of every layer.
        settings: of which the scale of each is taken.
    Raises:
        CheckpointError: the tokenizer has tokens that the model has not.
    """
    stored = TORCH_DTYPES[base.element_type()]
    tolerance = FP32_TOLERANCE if stored == torch.float32 else ROUNDED_TOLERANCE
    sample, what = sample_tokens(base.companions, base.vocab_size)
    print(what.localized(), flush=True)
    reference = _AdaptedSide(base, whole, settings, stored)
    found = HFSide(merged.model, merged.config, merged.source, stored)
    rows = _compare(reference, found, torch.tensor(sample), base.model.num_layers, tolerance)
    about = {"base": str(base.folder), "merged": str(merged.folder), "tokens": str(what)}
    return CheckReport(rows=rows, about=about, title="merged against base and adapters")


def _compare(
    reference: HFSide, found: HFSide, tokens: torch.Tensor, layers: int, tolerance: float
) -> list[PartComparison]:
    stream = reference.embed(tokens, torch.float32)
    own = found.embed(tokens, torch.float32)
    rows = [measure(own, stream, None, "embedding", SAME, "fp32", tolerance)]
    with WorkBar("bar-checking", layers + 1, unit="bar-parts") as bar:
        for number in range(layers):
            (theirs,) = reference.run_layer(number, [stream], torch.float32)
            same, accumulated = found.run_layer(number, [stream, own], torch.float32)
            for mode, parts in ((SAME, same), (ACCUMULATED, accumulated)):
                rows += [measure(parts[p], theirs[p], number, p, mode, "fp32", tolerance) for p in LAYER_PARTS]
            stream, own = theirs["residual"], accumulated["residual"]
            bar.advance(1)
        theirs = next(reference.run_head([stream], torch.float32))
        for mode, parts in zip((SAME, ACCUMULATED), found.run_head([stream, own], torch.float32), strict=True):
            rows += [measure(parts[p], theirs[p], None, p, mode, "fp32", tolerance) for p in ("final_norm", "logits")]
        bar.advance(1)
    return rows
