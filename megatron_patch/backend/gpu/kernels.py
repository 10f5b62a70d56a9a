"""Faster kernels of Transformer Engine and torch for what Megatron 0.19.2 gives to torch.compile, or does twice.

All compute the same formulas; none needs a compiler when training starts. Figures: one H200, 8192 tokens, 8B.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from megatron_patch.backend.patching import replace, wrap


def use_ready_made_kernels() -> None:
    """Apply all of them. Call it before Megatron's models are built."""
    _swiglu()
    _residual_addition()
    _embedding_gradient()
    _fp8_weights()
    import megatron.training.training as training

    why = "0.19.2 compiles and warms up two fusions at the start, which nothing uses here"
    replace(training, "set_jit_fusion_options", lambda *args, **kwargs: None, why=why)


def _swiglu() -> None:
    import transformer_engine_torch as tex
    from megatron.core.fusions import fused_bias_swiglu

    why = "0.19.2's compiled backward reads its inputs twice: 0.55 ms a layer, TE's 0.3"
    replace(fused_bias_swiglu, "swiglu", lambda y: tex.swiglu(y, None), why=why)
    replace(fused_bias_swiglu, "swiglu_back", lambda grad, y: tex.dswiglu(grad, y, None), why=why)


def _residual_addition() -> None:
    from megatron.core.fusions import fused_bias_dropout

    @wrap(fused_bias_dropout, "bias_dropout_add_fused_train", why="0.19.2 compiles it: 66 us for what torch adds in 47")
    def add(original: Callable[..., Any], x_with_bias: Any, residual: torch.Tensor, prob: float) -> torch.Tensor:
        x, bias = x_with_bias
        if bias is None and prob == 0.0 and x.dtype == residual.dtype:
            return residual + x
        return original(x_with_bias, residual, prob)


def _fp8_weights() -> None:
    from transformer_engine.pytorch.tensor import utils
    from transformer_engine.pytorch.tensor.float8_tensor import Float8Quantizer

    why = "TE 2.20 makes a transposed copy of each flat weight shard that nobody reads: 520 ms a step for 8B on one GPU"
    for name in ("_cast_master_weights_to_fp8_delayed_scaling", "_cast_master_weights_to_fp8_current_scaling"):

        @wrap(utils, name, why=why)
        def cast(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            update = Float8Quantizer.update_quantized
            Float8Quantizer.update_quantized = _by_rows(update)
            try:
                return original(*args, **kwargs)
            finally:
                Float8Quantizer.update_quantized = update


def _by_rows(update: Callable[..., Any]) -> Callable[..., Any]:
    def update_rows(quantizer: Any, *args: Any, **kwargs: Any) -> Any:
        columns = quantizer.columnwise_usage
        quantizer.set_usage(columnwise=False)
        try:
            return update(quantizer, *args, **kwargs)
        finally:
            quantizer.set_usage(columnwise=columns)

    return update_rows


def _embedding_gradient() -> None:
    from megatron.core.tensor_parallel import layers

    def embedding(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        shared = getattr(weight, "shared_embedding", False) or getattr(weight, "zero_out_wgrad", False)
        if hasattr(weight, "main_grad") and not shared and torch.is_grad_enabled():
            return EmbeddingInPlace.apply(ids, weight)
        return F.embedding(ids, weight)

    why = "0.19.2 adds a gradient of all 128256 rows (3 ms a micro batch) where 8192 at most are not zero"
    replace(layers, "F", SimpleNamespace(embedding=embedding), why=why)  # F is used there for this alone


class EmbeddingInPlace(torch.autograd.Function):
    """Rows of a table; the gradient is added to `weight.main_grad` at once, only where there is one.

    The same sums as torch's dense gradient, which is rounded to the weight's precision before it is added.
    """

    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """ids [...] int64, weight [rows, h] -> [..., h]."""
        ctx.save_for_backward(ids)
        ctx.weight = weight
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor]:
        """Gradient [..., h]; returns a tensor of the weight's shape that nobody may read, as TE's linears do."""
        from transformer_engine.pytorch.module.base import get_dummy_wgrad

        (ids,) = ctx.saved_tensors
        add_rows(ctx.weight.main_grad, ids.reshape(-1), grad.reshape(-1, grad.shape[-1]))
        ctx.weight.grad_added_to_main_grad = True
        return None, get_dummy_wgrad(list(ctx.weight.shape), ctx.weight.dtype)


def add_rows(table: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> None:
    """table[id] += the sum of the rows of that id, without waiting for the device to count them.

    Args:
        table: [vocabulary, h].
        ids: [n], int64.
        rows: [n, h]; summed in fp32, rounded to their own precision, then added.
    """
    count = ids.shape[0]
    ordered, order = ids.sort(stable=True)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    slots = is_new.cumsum(0) - 1  # one for each different id
    slot_of = torch.empty_like(slots).scatter_(0, order, slots)
    sums = torch.ops.aten.embedding_dense_backward(rows.contiguous(), slot_of, count, -1, False)
    id_of = torch.zeros_like(ids).scatter_(0, slots, ordered)  # slots that stay empty add zeros to row 0
    table.index_add_(0, id_of, sums.to(table.dtype))
