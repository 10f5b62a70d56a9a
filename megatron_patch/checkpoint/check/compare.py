"""The layer check: Hugging Face's model and ours over the same real tokens, compared part by part.

Every layer is run twice on our side: on the residual stream of the Hugging Face model (`same input`, which says
which layer is wrong) and on our own (`accumulated`, which says what becomes of it). Both in fp32, where the relative
L2 error may be 1e-5, and in the checkpoint's own type where that is a smaller one: there the measure is the fp32
Hugging Face model, and we may be no worse than twice Hugging Face in that type.

One layer is in memory at a time, so the size of the model does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from megatron_patch.checkpoint.check.hf import HFSide
from megatron_patch.checkpoint.check.megatron import LAYER_PARTS, MegatronSide
from megatron_patch.checkpoint.formats.hf_folder import SAFETENSORS_DTYPES, HFFolder
from megatron_patch.checkpoint.formats.hf_writer import OnBytes
from megatron_patch.checkpoint.formats.sources import open_source
from megatron_patch.checkpoint.formats.torch_dist import TORCH_DTYPES
from megatron_patch.models import ModelConfig

FP32_TOLERANCE = 1e-5
"""Relative L2 error."""
LOW_PRECISION_FACTOR = 2.0
"""We may be so many times as far from the fp32 model as Hugging Face in the same type is."""
SAME, ACCUMULATED = "same input", "accumulated"
PARTS = ("embedding", *LAYER_PARTS, "final_norm", "logits")


@dataclass(frozen=True, kw_only=True)
class PartComparison:
    """One comparison."""

    layer: int | None
    """None before the first and after the last."""
    part: str
    mode: str
    """`same input` or `accumulated`."""
    precision: str
    """fp32, or the checkpoint's: what was computed in."""
    max_abs: float
    relative_l2: float
    cosine: float
    tolerance: float
    """Largest relative L2 that passes."""

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.relative_l2 <= self.tolerance


@dataclass(kw_only=True)
class Sides:
    """The two models, as far as this rank has them."""

    hf: HFSide | None
    """On the first rank of each tensor-parallel group."""
    ours: dict[str, MegatronSide]
    """By precision: fp32, and the checkpoint's if that is another."""

    @property
    def low(self) -> str | None:
        """The precision that is compared besides fp32."""
        return next((name for name in self.ours if name != "fp32"), None)


@dataclass(kw_only=True)
class ResidualStreams:
    """The residual streams on their way through the layers, [batch, sequence, hidden] each."""

    reference: torch.Tensor
    """Hugging Face in fp32."""
    hf_low: torch.Tensor | None = None
    """Hugging Face in the checkpoint's type."""
    ours: dict[str, torch.Tensor] = field(default_factory=dict)


def open_sides(folder: HFFolder, megatron: Path, model: ModelConfig, precision: str, tp: int, pp: int) -> Sides:
    """Build both sides on this rank.

    Args:
        megatron: a torch_dist folder whose metadata has been read safely.
        precision: what both sides' weights are rounded to, so that a cast is not taken for an error.
        model: of the Megatron side, from the configuration beside it.
    """
    from megatron.core import parallel_state

    stored = TORCH_DTYPES[SAFETENSORS_DTYPES[precision]]
    ours = {
        name: MegatronSide(megatron, model, dtype, stored, tp, pp)
        for name, dtype in {"fp32": torch.float32, precision: stored}.items()
    }
    first = parallel_state.get_tensor_model_parallel_rank() == 0
    hf = HFSide(folder.model, folder.config, open_source(folder), stored) if first else None
    return Sides(hf=hf, ours=ours)


@torch.no_grad()
def compare(sides: Sides, tokens: torch.Tensor, progress: OnBytes) -> list[PartComparison]:
    """Run both models over tokens [batch, sequence]; collective over all ranks.

    Args:
        progress: told 1 for each part of the model that is done on this rank.
    Returns:
        the rows of all ranks, in the order of the computation.
    """
    from megatron.core import parallel_state

    stage, stages = (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_world_size(),
    )
    rows: list[PartComparison] = []
    streams = None
    for turn in range(stages):
        if turn == stage:
            if turn == 0:
                streams, found = _embed(sides, tokens)
                rows += found
                progress(1)
            assert streams is not None
            for number in sides.ours["fp32"].layers:
                rows += _layer(sides, number, streams)
                progress(1)
            if turn == stages - 1:
                rows += _head(sides, streams)
                progress(1)
        streams = _hand_on(streams, turn)
    gathered: list[list[PartComparison]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(gathered, rows)
    order = {part: i for i, part in enumerate(PARTS)}
    last = 1 << 30
    everything = [row for of_rank in gathered for row in of_rank]
    return sorted(
        everything,
        key=lambda r: (last if r.part in PARTS[-2:] else -1 if r.layer is None else r.layer, order[r.part]),
    )


def _hand_on(streams: ResidualStreams | None, turn: int) -> ResidualStreams:
    """Give every rank the streams of the stage whose turn it was."""
    from megatron.core import parallel_state

    groups = parallel_state.get_pipeline_model_parallel_world_size()
    source = turn * (torch.distributed.get_world_size() // groups)  # TP 0 of that stage: ranks are tp, then dp, then pp
    box = [streams]
    torch.distributed.broadcast_object_list(box, src=source)
    assert box[0] is not None
    return box[0]


def _embed(sides: Sides, tokens: torch.Tensor) -> tuple[ResidualStreams, list[PartComparison]]:
    ours = {name: side.embed(tokens) for name, side in sides.ours.items()}
    if sides.hf is None:
        return ResidualStreams(reference=ours["fp32"], ours=ours), []  # replaced by the first rank's before it is used
    reference, low = sides.hf.embed(tokens, torch.float32), None
    rows = [measure(ours["fp32"], reference, None, "embedding", SAME, "fp32", FP32_TOLERANCE)]
    if sides.low:
        low = sides.hf.embed(tokens, ours[sides.low].dtype)
        rows.append(_measure_low(ours[sides.low], low, reference, None, "embedding", SAME, sides.low))
    return ResidualStreams(reference=reference, hf_low=low, ours=ours), rows


def _layer(sides: Sides, number: int, streams: ResidualStreams) -> list[PartComparison]:
    """Compare one layer and move the streams behind it."""
    streams.reference = _from_first(streams.reference)
    ours = {
        name: dict(
            zip((SAME, ACCUMULATED), side.run_layer(number, [streams.reference, streams.ours[name]]), strict=True)
        )
        for name, side in sides.ours.items()
    }
    streams.ours = {name: modes[ACCUMULATED]["residual"] for name, modes in ours.items()}
    if sides.hf is None:
        return []
    rows, inputs = [], streams.reference
    (reference,) = sides.hf.run_layer(number, [inputs], torch.float32)
    streams.reference = reference["residual"]
    for mode, parts in ours["fp32"].items():
        rows += [measure(parts[p], reference[p], number, p, mode, "fp32", FP32_TOLERANCE) for p in LAYER_PARTS]
    if sides.low:
        assert streams.hf_low is not None
        low = sides.hf.run_layer(number, [inputs, streams.hf_low], streams.hf_low.dtype)
        streams.hf_low = low[1]["residual"]
        for (mode, parts), theirs in zip(ours[sides.low].items(), low, strict=True):
            rows += [_measure_low(parts[p], theirs[p], reference[p], number, p, mode, sides.low) for p in LAYER_PARTS]
    return rows


def _from_first(stream: torch.Tensor) -> torch.Tensor:
    """The reference of the first rank of the tensor-parallel group, which alone runs Hugging Face."""
    from megatron.core import parallel_state

    stream = stream.contiguous()
    source = parallel_state.get_tensor_model_parallel_src_rank()
    torch.distributed.broadcast(stream, source, group=parallel_state.get_tensor_model_parallel_group())
    return stream


def _head(sides: Sides, streams: ResidualStreams) -> list[PartComparison]:
    """Final norm and logits. Logits are large: one pair of them is in memory at a time."""
    streams.reference = _from_first(streams.reference)
    hf, rows = sides.hf, []
    reference = next(hf.run_head([streams.reference], torch.float32)) if hf else {}
    for precision, side in sides.ours.items():
        low: Iterable[Any] = (None, None)
        if hf and precision != "fp32":
            assert streams.hf_low is not None
            low = hf.run_head([streams.reference, streams.hf_low], streams.hf_low.dtype)
        found = side.run_head([streams.reference, streams.ours[precision]])
        for mode, ours, theirs in zip((SAME, ACCUMULATED), found, low, strict=True):
            for part in ("final_norm", "logits") if hf else ():
                facts = (None, part, mode, precision)
                if theirs is None:
                    rows.append(measure(ours[part], reference[part], *facts, FP32_TOLERANCE))
                else:
                    rows.append(_measure_low(ours[part], theirs[part], reference[part], *facts))
    return rows


def _measure_low(
    ours: torch.Tensor,
    hf: torch.Tensor,
    reference: torch.Tensor,
    layer: int | None,
    part: str,
    mode: str,
    precision: str,
) -> PartComparison:
    """In the checkpoint's type the tolerance is twice Hugging Face's own distance from fp32."""
    own = measure(hf, reference, layer, part, mode, precision, 0.0).relative_l2
    return measure(ours, reference, layer, part, mode, precision, LOW_PRECISION_FACTOR * own)


def measure(
    ours: torch.Tensor,
    reference: torch.Tensor,
    layer: int | None,
    part: str,
    mode: str,
    precision: str,
    tolerance: float,
) -> PartComparison:
    """Compare two tensors of one shape over all sequences; summed in float64, a slice at a time."""
    if ours.shape != reference.shape:
        raise AssertionError(f"{part} of layer {layer}: {list(ours.shape)} against {list(reference.shape)}")
    largest = difference = mine = theirs = product = 0.0
    for a, b in _slices(ours, reference):
        gap = a - b
        largest = max(largest, gap.abs().max().item()) if torch.isfinite(gap).all() else float("nan")
        difference += gap.square().sum().item()
        mine, theirs = mine + a.square().sum().item(), theirs + b.square().sum().item()
        product += (a * b).sum().item()
    scale = (mine * theirs) ** 0.5
    return PartComparison(
        layer=layer,
        part=part,
        mode=mode,
        precision=precision,
        max_abs=largest,
        relative_l2=(difference / theirs) ** 0.5 if theirs else difference**0.5,
        cosine=product / scale if scale else float("nan"),
        tolerance=tolerance,
    )


def _slices(ours: torch.Tensor, reference: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for a, b in zip(ours.flatten(0, 1).split(64), reference.flatten(0, 1).split(64), strict=True):
        yield a.double(), b.double()
