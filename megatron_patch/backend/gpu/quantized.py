"""Filling a model whose weights are fp8 already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def in_high_precision(model_chunks: Iterable[torch.nn.Module]) -> Iterator[None]:
    """While inside, every fp8 parameter stands as an ordinary tensor to be filled; then it is quantized, whole.

    Slices of an fp8 tensor cannot be filled one by one, as they share one scale. And Megatron 0.19.2 makes the
    optimizer's fp32 copies from the high-precision values that Transformer Engine kept of the fresh weights: without
    replacing those too, the first step would bring the fresh weights back.
    """
    from megatron.core.fp8_utils import is_float8tensor

    replaced = []
    for chunk in model_chunks:
        for module in chunk.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and is_float8tensor(parameter):
                    plain = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
                    replaced.append((module, name, parameter))
                    module._parameters[name] = torch.nn.Parameter(plain, requires_grad=False)
    yield
    with torch.no_grad():
        for module, name, parameter in replaced:
            filled = module.get_parameter(name)
            parameter.copy_(filled)
            if hasattr(parameter, "get_high_precision_init_val"):
                parameter.get_high_precision_init_val().copy_(filled)
            module._parameters[name] = parameter
