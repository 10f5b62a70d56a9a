"""What fp8 training (tensorwise scaling) leaves out (trainer/passes.py), and what else it can compute in 8 bits.

Figures: what the kernels of 8B take in a micro batch of 8192 tokens on one H200, 538 ms in all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from megatron_patch.backend.patching import replace, wrap


def sum_without_splitting() -> None:
    """Backward matmuls sum as the forward ones do: in the tensor cores' own accumulators, some 14 bits of mantissa.

    By default Transformer Engine's recipe takes partial sums over to fp32 registers in the two matmuls of the backward
    pass (12.5 ms).
    """
    from megatron.core import fp8_utils
    from transformer_engine.common.recipe import MMParams

    @wrap(fp8_utils, "get_fp8_recipe", why="0.19.2 has no flag for the recipe's accumulators")
    def recipe(original: Callable[..., Any], config: Any) -> Any:
        found = original(config)
        found.fp8_gemm_dgrad = found.fp8_gemm_wgrad = MMParams(use_split_accumulator=False)
        return found


def head_in_fp8() -> None:
    """The LM head's three matmuls in fp8 (37.5 ms of bf16), by the layer that Megatron 0.19.2 keeps for mxfp8.

    Its weight stays bf16 and is cast once an iteration: 2 bytes a weight more. Logits and their gradients come out in
    bf16; the gradient is cast to 8 bits for both matmuls of the backward pass.
    """
    from megatron.core import fp8_utils
    from megatron.core.models.gpt import gpt_model

    for module in (fp8_utils, gpt_model):
        replace(module, "is_mxfp8_output_proj_active", lambda config: True, why="0.19.2 has it for mxfp8 alone")


def cast_attention_output_once() -> None:
    """Cast it to 8 bits and transpose it in the forward pass, instead of casting it there and once more later.

    Megatron 0.19.2 saves the bf16 output, which attention keeps anyway; so it is read for its largest value twice and
    cast twice. Once takes 0.3 % less of a step, and a byte more for each element: 1.07 GB.
    """
    from megatron.core.transformer import attention

    why = "0.19.2 has the attention's output cast in both passes"
    replace(attention, "set_save_original_input", lambda module: None, why=why)


def quantize_in_swiglu() -> None:
    """SwiGLU and its backward pass find the largest value of what they write, and give it in 8 bits.

    Otherwise their results are read once more for it, 117 and 235 million elements a layer: 0.4 % of a step. Only where
    fp8 scales each tensor by its present largest value; not with adapters, which read the same results in bf16.
    """
    from megatron.core.extensions.transformer_engine import TERowParallelLinear
    from megatron.core.transformer import mlp
    from transformer_engine.pytorch.module.base import TransformerEngineBaseModule
    from transformer_engine.pytorch.tensor.float8_tensor import Float8Tensor

    @wrap(mlp, "bias_swiglu_impl", why="0.19.2's SwiGLU gives bf16, which is then read for its largest value")
    def swiglu(original: Callable[..., Any], x: torch.Tensor, bias: Any, *rest: Any) -> Any:
        quantizers = _quantizers(x.device) if bias is None else None
        return original(x, bias, *rest) if quantizers is None else QuantizedSwiGLU.apply(x, *quantizers)

    @wrap(TERowParallelLinear, "forward", why="TE 2.20 keeps both copies of an input that was quantized before")
    def forward(original: Callable[..., Any], self: Any, x: Any) -> Any:
        found = original(self, x)
        if isinstance(x, Float8Tensor) and torch.is_grad_enabled():
            x.update_usage(rowwise_usage=False, columnwise_usage=True)  # the backward pass reads the transposed copy
        return found

    @wrap(TransformerEngineBaseModule, "grad_output_preprocess", why="TE 2.20 reshapes the transposed copy wrongly")
    def preprocess(original: Callable[..., Any], ctx: Any, grad: Any, *rest: Any) -> Any:
        """The gradient of the first matmul of the MLP, which has no bias and gathers nothing."""
        return (as_matrix(grad), None) if isinstance(grad, Float8Tensor) else original(ctx, grad, *rest)


class QuantizedSwiGLU(torch.autograd.Function):
    """silu(gate) x up in 8 bits, and its gradient in 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, forward: Any, backward: Any) -> Any:
        """x [s, b, 2f] with gate and up side by side -> [s, b, f]; a quantizer for each of the two passes."""
        import transformer_engine_torch as tex

        ctx.save_for_backward(x)
        ctx.quantizer = backward
        return tex.swiglu(x, forward)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """[s, b, f] -> [s, b, 2f]."""
        import transformer_engine_torch as tex

        (x,) = ctx.saved_tensors
        return tex.dswiglu(grad, x, ctx.quantizer), None, None


def _quantizers(device: torch.device) -> tuple[Any, Any] | None:
    """For the forward and the backward pass; None in bf16 layers and under other ways of scaling."""
    from transformer_engine.pytorch.quantization import FP8GlobalStateManager, get_fp8_te_dtype

    if not FP8GlobalStateManager.is_fp8_enabled():
        return None
    recipe = FP8GlobalStateManager.get_fp8_recipe()
    if not recipe.float8_current_scaling():
        return None
    learns = torch.is_grad_enabled()
    return (
        _quantizer(get_fp8_te_dtype(recipe, fprop_tensor=True), device, learns),
        _quantizer(get_fp8_te_dtype(recipe, fprop_tensor=False), device, True),
    )


@cache
def _quantizer(kind: Any, device: torch.device, transposes: bool) -> Any:
    from transformer_engine.pytorch.tensor.float8_tensor import Float8CurrentScalingQuantizer

    return Float8CurrentScalingQuantizer(kind, device, columnwise=transposes)


def as_matrix(tensor: Any) -> Any:
    """A Float8Tensor [..., n] as [tokens, n], its transposed copy with it, which 2.20's `reshape` drops or turns."""
    from transformer_engine.pytorch.tensor.float8_tensor import Float8Tensor

    width = tensor.shape[-1]
    data = tensor._data.view(-1, width)
    transposed = None if tensor._transpose_invalid else tensor._transpose
    return Float8Tensor(
        shape=data.shape,
        dtype=tensor.dtype,
        data=data,
        data_transpose=None if transposed is None else transposed.view(width, -1),
        fp8_scale_inv=tensor._scale_inv,
        fp8_dtype=tensor._fp8_dtype,
        quantizer=tensor._quantizer,
        device=tensor.device,
    )
