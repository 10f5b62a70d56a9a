"""Which adapters a run has: rank, alpha, dropout, targets. Standard library only, as the launcher reads it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megatron_patch.common.errors import UserError
from megatron_patch.models import ModelConfig
from megatron_patch.models.weight_map import COLUMNS, FUSED_QKV, LAYER_WEIGHTS, WHOLE, hf_shapes
from megatron_patch.peft.patterns import Pattern, parse_pattern, value_of

if TYPE_CHECKING:
    import torch

    type Whole = dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]]

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
"""Matrices of a layer that may have an adapter, in the order of a forward pass."""
ALL = "all-linear"
SUFFIX = "_adapters"
"""`linear_qkv_adapters` lies beside `linear_qkv`."""


class PeftError(UserError, ValueError):
    """Adapters that this model, base or folder cannot have."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One linear module of Megatron, and the targets that it fuses, in their order."""

    path: str
    """Under a layer: `self_attention.linear_qkv`."""
    targets: tuple[str, ...]
    by_group: bool
    """Its rows alternate, KV group by KV group."""
    row_parallel: bool
    """Its input is sharded over TP, not its output."""


def _target_of(hf: str) -> str:
    """`self_attn.q_proj.weight` -> `q`."""
    return hf.split(".")[1].removesuffix("_proj")


LINEARS = tuple(
    Linear(
        path=weight.megatron.removesuffix(".weight"),
        targets=tuple(map(_target_of, weight.hf)),
        by_group=weight.how == FUSED_QKV,
        row_parallel=weight.split == COLUMNS,
    )
    for weight in LAYER_WEIGHTS
    if weight.split != WHOLE and weight.megatron.endswith(".weight") and "_proj" in weight.hf[0]
)
"""From the weight map, so that both directions agree with the converter."""

HF_MODULES = {
    _target_of(name): name.removesuffix(".weight")
    for weight in LAYER_WEIGHTS
    if weight.megatron.endswith(".weight")
    for name in weight.hf
    if "_proj" in name
}
"""`q` -> `self_attn.q_proj`, under `model.layers.N.`."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """W x becomes W x + scale B A dropout(x), with A [rank, in] and B [out, rank].

    Source: Hu et al. 2021 (arXiv:2106.09685).
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS
    rslora: bool = False
    """Divide alpha by sqrt(rank), not by rank: Kalajdzievski 2023 (arXiv:2312.03732)."""

    rank_pattern: Pattern = ()
    """Modules with a rank of their own."""
    alpha_pattern: Pattern = ()
    """Modules with an alpha of their own."""

    def rank_of(self, layer: int, target: str) -> int:
        """The rank of one adapter."""
        own = value_of(self.rank_pattern, module_name(layer, target))
        return self.rank if own is None else int(own)

    def scale_of(self, layer: int, target: str) -> float:
        """What B A x is multiplied with."""
        own, rank = value_of(self.alpha_pattern, module_name(layer, target)), self.rank_of(layer, target)
        return (self.alpha if own is None else own) / (math.sqrt(rank) if self.rslora else rank)

    def varies(self, target: str, num_layers: int) -> bool:
        """Whether layers differ in the rank of this target."""
        return len({self.rank_of(layer, target) for layer in range(num_layers)}) > 1


FIXED = ("rank", "alpha", "targets", "rslora", "rank_pattern", "alpha_pattern")
"""Settings that trained adapters cannot change."""


def module_name(layer: int, target: str) -> str:
    """As transformers and PEFT call it."""
    return f"model.layers.{layer}.{HF_MODULES[target]}"


def of_layer(key: str, layer: int) -> str:
    """The name in a checkpoint of one layer's tensor, where layers differ in its shape."""
    return f"{key}.layer{layer}"


def settings_from(told: dict[str, Any]) -> LoraSettings:
    """Settings that were written as JSON; older ones have no patterns.

    Raises:
        KeyError, TypeError: they are not those.
    """
    patterns = {name: tuple((key, value) for key, value in told.get(name, ())) for name in FIXED[-2:]}
    return LoraSettings(**told | patterns | {"targets": tuple(told["targets"])})


def settings_of_arguments(args: Any) -> LoraSettings | None:
    """What the trainer's flags ask for; None without --lora-rank."""
    if not args.lora_rank:
        return None
    return LoraSettings(
        rank=args.lora_rank,
        alpha=default_alpha(args.lora_rank, args.lora_alpha),
        dropout=args.lora_dropout,
        targets=parse_targets(args.lora_targets),
        rslora=args.lora_rslora,
        rank_pattern=parse_pattern(args.lora_rank_pattern),
        alpha_pattern=parse_pattern(args.lora_alpha_pattern),
    )


def default_alpha(rank: int, alpha: float | None) -> float:
    """Twice the rank where nothing is said."""
    return float(2 * rank if alpha is None else alpha)


def parse_targets(text: str) -> tuple[str, ...]:
    """`q,v` (PEFT's `q_proj,v_proj` too) or `all-linear`, in the order of a forward pass.

    Raises:
        ValueError: a word that is neither; its text is that word.
    """
    words = [word.strip() for word in text.split(",")]
    if words == [ALL]:
        return TARGETS
    named = [word.removesuffix("_proj") for word in words]
    for word, target in zip(words, named, strict=True):
        if target not in TARGETS:
            raise ValueError(word)
    return tuple(target for target in TARGETS if target in named)


def shown_targets(targets: tuple[str, ...]) -> str:
    """As they are typed, in the order of a forward pass."""
    return ALL if targets == TARGETS else ",".join(targets)


def target_shapes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """Rows and columns of the matrix behind each target, as Hugging Face stores it."""
    shapes = hf_shapes(model, 1)
    found = {}
    for target, module in HF_MODULES.items():
        rows, columns = shapes[f"model.layers.0.{module}.weight"]
        found[target] = (rows, columns)
    return found


def adapter_parameters(adapters: LoraSettings, model: ModelConfig, tp: int, layers: Sequence[int]) -> int:
    """Of these layers on one rank: of each pair the matrix on the sharded side is sharded over TP."""
    shapes, total = target_shapes(model), 0
    for linear in LINEARS:
        for target in (target for target in linear.targets if target in adapters.targets):
            rows, columns = shapes[target]
            width = (columns // tp + rows) if linear.row_parallel else (columns + rows // tp)
            total += width * sum(adapters.rank_of(layer, target) for layer in layers)
    return total


def freeze_problem(text: str, num_layers: int) -> str | None:
    """The word of MP_FREEZE that names no part of a model; None if all do."""
    for word in (word.strip() for word in text.split(",")):
        if word in ("embedding", "head", "norms"):
            continue
        kind, _, numbers = word.partition(".")
        first, dash, last = numbers.partition("-")
        ends = [first, last if dash else first]
        if kind != "layers" or not all(end.isdigit() for end in ends):
            return word
        if not int(ends[0]) <= int(ends[1]) < num_layers:
            return word
    return None


def frozen_words(text: str) -> set[str]:
    """The words of MP_FREEZE: `embedding`, `head`, `norms`, `layers.N`, `layers.N-M`."""
    return {word.strip() for word in text.split(",")}


def frozen_layers(text: str) -> set[int]:
    """Numbers of the layers that MP_FREEZE names."""
    found: set[int] = set()
    for word in frozen_words(text):
        kind, _, numbers = word.partition(".")
        if kind == "layers":
            first, _, last = numbers.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found
