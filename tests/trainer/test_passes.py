"""Which passes over memory are left out by default: those that were measured on a GPU, where they were."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_patch.trainer.arguments import add_arguments
from megatron_patch.trainer.passes import FEWER, fewer_passes

from ..gpu.harness import flags_of
from ..gpu.test_fewer_passes import ALL_PASSES, TENSORWISE

BF16 = {"transformer_impl": "transformer_engine", "bf16": True, "normalization": "RMSNorm", "swiglu": True}
FP8 = BF16 | {"fp8": "hybrid", "fp8_recipe": "tensorwise"}
OFF = {
    "fewer_passes": None,
    "fp8": None,
    "fp8_recipe": "delayed",
    "lora_rank": None,
    "freeze": None,
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
        (FP8 | {"recompute_granularity": "full"}, ()),
        (FP8 | {"recompute_granularity": "selective", "recompute_modules": ["core_attn", "mlp"]}, ()),
        (FP8 | {"lora_rank": 16}, ()),
        (FP8 | {"freeze": "norms"}, ()),
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


@pytest.mark.parametrize(("extra", "expected"), [("", FEWER), (ALL_PASSES, ()), ("--fewer-passes swiglu", ("swiglu",))])
def test_what_the_tests_on_gpus_ask_for_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str, expected: tuple[str, ...]
) -> None:
    """By Megatron's parser; those tests run where there is a GPU, and nobody would see here that a flag is gone."""
    from megatron.training.arguments import parse_args

    flags = flags_of(tmp_path, tmp_path, f"{TENSORWISE} {extra}")
    monkeypatch.setattr(sys, "argv", ["pretrain_llama.py", *flags])
    args = parse_args(extra_args_provider=add_arguments)
    assert args.seq_length and args.vocab_size and args.num_layers
    assert fewer_passes(args) == expected
