"""What the PyPI wheel of megatron-core 0.19.2 lacks, on every device."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from megatron_patch.backend.patching import BackendError, replace, wrap


def use_compiled_helpers() -> None:
    """Skip the compilation of the dataset helpers.

    0.19.2 runs `make` in `megatron/core/datasets`, where the wheel has no Makefile, and exits with status 1; the
    compiled library is in the wheel.
    """
    import megatron.core.datasets.utils as dataset_utils

    if importlib.util.find_spec("megatron.core.datasets.helpers_cpp") is None:
        raise BackendError("no-helpers")
    why = "0.19.2 runs make where the wheel has no Makefile, and exits with 1"
    replace(dataset_utils, "compile_helpers", lambda: None, why=why)


def read_tokenizers_with(read: Callable[[Any], Any | None]) -> None:
    """Have `read` make the ranks' tokenizer.

    Args:
        read: gets Megatron's arguments; None leaves the tokenizer to Megatron.
    """
    import megatron.training.global_vars as global_vars

    why = "0.19.2 imports transformers with its models, 1.5 s, for the ids of two tokens"

    @wrap(global_vars, "build_tokenizer", why=why)
    def build_tokenizer(original: Callable[..., Any], args: Any, **kwargs: Any) -> Any:
        return read(args) or original(args, **kwargs)


def provide_fused_wgrad() -> None:
    """Give `--gradient-accumulation-fusion` its kernel from Transformer Engine where apex is absent.

    0.19.2's LM head asks for apex's extension `fused_weight_gradient_mlp_cuda`; TE has the same GEMM.
    """
    name = "fused_weight_gradient_mlp_cuda"
    if importlib.util.find_spec(name) is not None or importlib.util.find_spec("transformer_engine") is None:
        return

    def accumulate(activations: torch.Tensor, grad_output: torch.Tensor, main_grad: torch.Tensor) -> None:
        """main_grad [out, in] += grad_output [tokens, out] transposed @ activations [tokens, in]."""
        from transformer_engine.pytorch.cpp_extensions import general_gemm

        general_gemm(
            activations,
            grad_output,
            out_dtype=main_grad.dtype,
            layout="NT",
            out=main_grad,
            accumulate=True,
            grad=False,
        )

    module = types.ModuleType(name)
    vars(module).update(wgrad_gemm_accum_fp32=accumulate, wgrad_gemm_accum_fp16=accumulate)
    sys.modules[name] = module
