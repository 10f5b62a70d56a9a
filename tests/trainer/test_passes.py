"""Which passes over memory are left out by default: those that were measured on a GPU, where they were."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from megatron_patch.trainer.passes import FEWER, fewer_passes

BF16 = {"transformer_impl": "transformer_engine", "bf16": True, "normalization": "RMSNorm", "swiglu": True}
FP8 = BF16 | {"fp8": "hybrid", "fp8_recipe": "tensorwise"}
OFF = {
    "fewer_passes": None,
    "fp8": None,
    "fp8_recipe": "delayed",
    "lora_rank": None,
    "cpu_offloading_num_layers": 0,
    "fine_grained_activation_offloading": False,
    "recompute_granularity": None,
    "recompute_modules": ["core_attn"],
    "use_transformer_engine_op_fuser": False,
}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (BF16, ("residual",)),
        (FP8, FEWER),
        (FP8 | {"fp8_recipe": "delayed"}, ("residual",)),
        (FP8 | {"fp8_recipe": "blockwise"}, ("residual",)),
        (FP8 | {"normalization": "LayerNorm"}, ("projection", "swiglu")),
        (FP8 | {"swiglu": False}, ("residual", "projection")),
        (FP8 | {"recompute_granularity": "selective"}, FEWER),
        (FP8 | {"recompute_granularity": "full"}, FEWER),
        (FP8 | {"recompute_granularity": "selective", "recompute_modules": ["core_attn", "mlp"]}, ()),
        (FP8 | {"lora_rank": 16}, ()),
        (FP8 | {"cpu_offloading_num_layers": 4}, ()),
        (FP8 | {"fine_grained_activation_offloading": True}, ()),
        (FP8 | {"use_transformer_engine_op_fuser": True}, ()),
        (BF16 | {"transformer_impl": "local"}, ()),
        (BF16 | {"bf16": False}, ()),
        (FP8 | {"fewer_passes": []}, ()),
        (FP8 | {"fewer_passes": ["swiglu"], "lora_rank": 16}, ("swiglu",)),
    ],
)
def test_fewer_passes(flags: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert fewer_passes(SimpleNamespace(**(OFF | flags))) == expected
