"""The adapters of one linear module of Megatron, tensor-parallel, and the sum that they are added to.

Canonical: each projection of Hugging Face has its own A and B, though Megatron fuses q, k, v and gate, up. A matmul
with all A at once and one with a block matrix of the B give the fused rows: two small matmuls for a module.

Tensor parallelism, h = A x being [tokens, ranks of all its targets]:
- column-parallel (q, k, v, gate, up): A is replicated, B sharded by rows. Without sequence parallelism h is complete on
  every rank and its gradient is summed; with it, A reads a rank's own tokens and h, which is narrow, is gathered: A's
  gradient is then that of these tokens, and `finalize_model_grads` sums it (`sequence_parallel`).
- row-parallel (o, down): A is sharded by columns, the partial h are summed (and scattered over the tokens), B is
  replicated, and under sequence parallelism its gradient is summed like a norm's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch.nn import functional

from megatron_patch.peft.settings import Linear, LoraSettings, of_layer


class Adapters(torch.nn.Module):
    """Of one linear module; lies beside it in its parent, so that the base keeps its names.

    Args:
        linear: which module, and what it fuses.
        settings: ranks, scales, dropout, targets.
        layer: its number in the model.
        layers: of the model.
        rows: by target of the module, whether it has an adapter or not: rows of its matrix on this rank.
        columns: of the module's weight on this rank.
        groups: KV groups on this rank, in whose order the rows alternate; 1 where they do not.
        config: Megatron's.
        device: the base weight's.
    """

    def __init__(
        self,
        linear: Linear,
        settings: LoraSettings,
        *,
        layer: int,
        layers: int,
        rows: dict[str, int],
        columns: int,
        groups: int,
        config: Any,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.linear, self.settings, self.rows, self.groups = linear, settings, rows, groups
        self.sequence_parallel = config.sequence_parallel
        self.forked: torch.Tensor | None = None
        """A x, from before the base's matmul until after it."""
        self.held = [target for target in linear.targets if target in settings.targets]
        self.ranks = {target: settings.rank_of(layer, target) for target in self.held}
        self.scales = {target: settings.scale_of(layer, target) for target in self.held}
        self.layer, self.varying = layer, {target for target in self.held if settings.varies(target, layers)}
        kind = {"device": device, "dtype": config.params_dtype}
        self.a = torch.nn.ParameterDict({t: torch.empty(self.ranks[t], columns, **kind) for t in self.held})
        self.b = torch.nn.ParameterDict({t: torch.empty(rows[t], self.ranks[t], **kind) for t in self.held})
        for parameter in self.a.values():
            _mark(parameter, axis=1 if linear.row_parallel else None, config=config)
        for parameter in self.b.values():
            _mark(parameter, axis=None if linear.row_parallel else 0, config=config)

    def forward(self, x: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """The module's output with the adapters' added.

        Args:
            x: what the base weight multiplies, [s, b, columns]; of column-parallel modules under sequence
                parallelism this rank's tokens only, [s / TP, b, columns].
            base: the base module's output, [s, b, rows]; of row-parallel ones under sequence parallelism
                [s / TP, b, rows].
        """
        return self.add(base, self._down(x))

    def add(self, base: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """The module's output with the adapters' added; `base` is overwritten.

        Args:
            h: A x of all targets beside each other, [s, b, ranks], before it is reduced.
        """
        sum_: torch.Tensor = _AddInPlace.apply(base, self._reduced(h), self._up(), self._scale)  # type: ignore[no-untyped-call]
        return sum_

    def fork(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x for the base weight, and A x; on the way back one matmul adds the adapters' gradient of x to the base's.

        For a module that is called with what its weight multiplies. On a GPU, where a sum of its own would read both
        gradients again; on the CPU it would change the last bits.
        """
        forked: tuple[torch.Tensor, torch.Tensor] = _Fork.apply(x, torch.cat([self.a[t] for t in self.held]))  # type: ignore[no-untyped-call]
        return forked

    @property
    def forks(self) -> bool:
        """Whether `fork` is to be used: dropout needs an x of its own."""
        on_gpu = next(iter(self.a.values())).is_cuda
        return on_gpu and not (self.training and self.settings.dropout)

    def _down(self, x: torch.Tensor) -> torch.Tensor:
        """A x of all targets, beside each other in their order (a ParameterDict sorts its own)."""
        if not (self.training and self.settings.dropout):
            return functional.linear(x, torch.cat([self.a[target] for target in self.held]))
        return torch.cat([functional.linear(self._dropped(x), self.a[target]) for target in self.held], dim=-1)

    def _dropped(self, x: torch.Tensor) -> Any:
        """One mask for each target, as PEFT draws them. Ranks that hold the same x draw the same mask."""
        if self.linear.row_parallel or self.sequence_parallel:  # ranks hold different x
            with tensor_parallel.get_cuda_rng_tracker().fork():
                return functional.dropout(x, self.settings.dropout)
        return functional.dropout(x, self.settings.dropout)

    def _reduced(self, h: torch.Tensor) -> Any:
        """Complete h, and its gradient complete on the way back."""
        if self.linear.row_parallel:
            if self.sequence_parallel:
                return tensor_parallel.reduce_scatter_to_sequence_parallel_region(h)
            return tensor_parallel.reduce_from_tensor_model_parallel_region(h)
        if self.sequence_parallel:
            return tensor_parallel.gather_from_sequence_parallel_region(h, tensor_parallel_output_grad=True)
        return tensor_parallel.copy_to_tensor_model_parallel_region(h)

    @property
    def _scale(self) -> float:
        """Of all targets; 1 where they differ, and `_up` has them."""
        first, *others = self.scales.values()
        return first if all(other == first for other in others) else 1.0

    def _up(self) -> torch.Tensor:
        """All B as one block matrix in the order of the fused rows, [rows, ranks of all targets]."""
        if len(self.linear.targets) == 1:
            return self.b[self.held[0]]  # type: ignore[no-any-return]
        total, before, blocks = sum(self.ranks.values()), 0, []
        for target in self.linear.targets:
            rows = self.rows[target] // self.groups
            if target in self.held:
                rank = self.ranks[target]
                b = self.b[target] if self._scale == self.scales[target] else self.b[target] * self.scales[target]
                blocks.append(functional.pad(b.view(self.groups, rows, rank), (before, total - before - rank)))
                before += rank
            else:
                some = next(iter(self.b.values()))
                blocks.append(some.new_zeros(self.groups, rows, total))
        return torch.cat(blocks, dim=1).flatten(0, 1)

    def fill(self, whole: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Take this rank's part of whole A [rank, in] and B [out, rank], by target."""
        tp, rank = (
            parallel_state.get_tensor_model_parallel_world_size(),
            parallel_state.get_tensor_model_parallel_rank(),
        )
        with torch.no_grad():
            for target in self.held:
                a, b = whole[target]
                if self.linear.row_parallel:
                    a = a.chunk(tp, dim=1)[rank]
                else:
                    b = b.chunk(tp, dim=0)[rank]
                self.a[target].copy_(a)
                self.b[target].copy_(b)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """What Megatron's checkpoints hold: `a.q` [layers, rank, in], `b.q` [layers, out, rank], and so on.

        Where layers differ in the rank, each has tensors of its own: `a.q.layer3` [rank, in].
        """
        axes = {f"a.{t}": 1 for t in self.held} if self.linear.row_parallel else {f"b.{t}": 0 for t in self.held}
        state = self.state_dict(prefix="", keep_vars=True)
        alike = {name: tensor for name, tensor in state.items() if name[2:] not in self.varying}
        found = make_sharded_tensors_for_checkpoint(alike, prefix, axes, sharded_offsets)
        own = {name: tensor for name, tensor in state.items() if name not in alike}
        for name, sharded in make_sharded_tensors_for_checkpoint(own, prefix, axes).items():
            found[name] = replace(sharded, key=of_layer(sharded.key, self.layer))
        return found  # type: ignore[no-any-return]


class _AddInPlace(torch.autograd.Function):
    """base + scale h B^T, written over base: what gives it keeps it not for its backward pass, and a copy of the
    widest output takes as long as the matmul itself."""

    @staticmethod
    def forward(ctx: Any, base: torch.Tensor, h: torch.Tensor, rows: torch.Tensor, scale: float) -> torch.Tensor:
        """base [..., rows], h [..., ranks], rows [rows, ranks]."""
        ctx.save_for_backward(h, rows)
        ctx.scale = scale
        out = base.detach()
        out.flatten(0, -2).addmm_(h.flatten(0, -2), rows.t(), alpha=scale)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of base, h and rows."""
        h, rows = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        of_h = torch.mm(flat, rows).mul_(ctx.scale).view(h.shape)
        of_rows = torch.mm(flat.t(), h.flatten(0, -2)).mul_(ctx.scale)
        return gradient, of_h, of_rows, None


class _Fork(torch.autograd.Function):
    """x, and A x; the gradient of x is the base's, onto which the adapters' is added by the matmul that makes it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [..., columns], a [ranks, columns]."""
        ctx.save_for_backward(x, a)
        return x.view_as(x), functional.linear(x, a)

    @staticmethod
    def backward(ctx: Any, of_x: torch.Tensor, of_h: torch.Tensor) -> Any:
        """Of x and A; `of_x` is the base's backward pass's own, and is overwritten."""
        x, a = ctx.saved_tensors
        flat = of_h.flatten(0, -2)
        of_a = torch.mm(flat.t(), x.flatten(0, -2))
        return of_x.flatten(0, -2).addmm_(flat, a).view(x.shape), of_a


def _mark(parameter: torch.nn.Parameter, *, axis: int | None, config: Any) -> None:
    """For the norm of the gradient, and for the sum of replicated ones over the tokens of other ranks."""
    set_tensor_model_parallel_attributes(parameter, axis is not None, 0 if axis is None else axis, 1)
    if axis is None:
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


def fresh(settings: LoraSettings, shapes: dict[str, tuple[int, int]], layer: int, seed: int) -> Iterator[Any]:
    """Whole new A and B of a layer by target: A as PEFT draws it (kaiming uniform, a = sqrt 5), B zero.

    The same in every layout and on every device: drawn on the CPU, from a generator of this layer and target.
    """
    for number, target in enumerate(settings.targets):
        rows, columns = shapes[target]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + layer * 101 + number)
        bound = columns**-0.5
        rank = settings.rank_of(layer, target)
        a = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
        yield target, (a, torch.zeros(rows, rank))
