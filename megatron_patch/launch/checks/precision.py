"""Precision, kernels, activations and the optimizer."""

from __future__ import annotations

from importlib.util import find_spec

from megatron_patch.launch.environment import Environment
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import Findings
from megatron_patch.models import ModelConfig


def check_activations(*, ac: str, pp: int, device: str, model: ModelConfig, chunks: int, mp_ac_layers: int) -> Findings:
    """What recomputation and offloading need. Source: transformer_config.py, megatron-core 0.19.2."""
    if ac == "offload" and device == "cpu":
        yield Problem("offload-on-cpu", "AC")
    limit = model.num_layers - 1 if ac == "offload" else model.num_layers // (pp * chunks)
    counts = ac == "full" or (ac == "offload" and pp == 1)
    if counts and mp_ac_layers > max(1, limit):
        code = "ac-layers-offload" if ac == "offload" else "ac-layers-chunk"
        yield Problem(code, "MP_AC_LAYERS", "AC", "MODEL_SIZE", limit=max(1, limit))


def check_optimizer_offload(*, optimizer_offload: str, do: bool, device: str, pr: str) -> Findings:
    """Offloading is a part of the distributed optimizer, for weights with fewer bits than their copies.

    Source: distrib_optimizer.py, hybrid_optimizer.py of megatron-core 0.19.2: shards of fp32 weights are no leaves
    ("can't optimize a non-leaf Tensor"), those on the GPU would get no gradients, and no checkpoint could be loaded.
    """
    if optimizer_offload == "false":
        return
    if not do:
        yield Problem("optimizer-offload-needs-do", "OPTIMIZER_OFFLOAD", "DO")
    if device == "cpu":
        yield Problem("optimizer-on-cpu", "OPTIMIZER_OFFLOAD")
    elif pr == "fp32":
        yield Problem("optimizer-offload-fp32", "OPTIMIZER_OFFLOAD", "PR")


def check_muon(
    *,
    mp_optimizer: str,
    do: bool,
    pr: str,
    optimizer_offload: str,
    mp_lora_rank: int | None,
    mp_freeze: str | None,
    environment: Environment,
) -> Findings:
    """Where Muon trains: its whole state on every rank. Source: optimizer/__init__.py of megatron-core 0.19.2."""
    if mp_optimizer != "muon":
        return
    if not environment.only_plans and find_spec("emerging_optimizers") is None:
        yield Problem("muon-not-installed", "MP_OPTIMIZER", pin=EMERGING_OPTIMIZERS)
    if do:
        yield Problem("muon-shards", "MP_OPTIMIZER", "DO")
    if optimizer_offload != "false":
        yield Problem("muon-offload", "MP_OPTIMIZER", "OPTIMIZER_OFFLOAD")
    if pr in ("fp16", "fp8"):
        yield Problem("muon-precision", "MP_OPTIMIZER", "PR", pr=pr)
    for name, value in (("MP_LORA_RANK", mp_lora_rank), ("MP_FREEZE", mp_freeze)):
        if value is not None:
            yield Problem("muon-partly", "MP_OPTIMIZER", name)


EMERGING_OPTIMIZERS = "emerging-optimizers==0.3.0"
"""As the extra `muon` of pyproject.toml."""


WITHOUT_FP8 = ("A100", "A800", "A40", "A30", "A10", "V100", "T4", "RTX 3090", "RTX A6000")
"""Parts of the names of GPUs before Ada and Hopper, which have no FP8 units."""


def check_precision(*, pr: str, cp: int, device: str, environment: Environment) -> Findings:
    """What the CPU, or an older GPU, cannot compute.

    Source: Transformer Engine 2.20, `get_attention_backend`: over context-parallel ranks only its fused kernels and
    flash-attention, of 16 bits and less.
    """
    names = [gpu.name for gpu in environment.gpus if any(f" {name} " in _words(gpu.name) for name in WITHOUT_FP8)]
    if pr == "fp8" and device == "cuda" and names:
        yield Problem("fp8-no-units", "PR", gpu=names[0])
    if pr == "fp32" and device == "cuda" and cp > 1:
        yield Problem("fp32-cp", "PR", "CP")
    if pr == "fp8" and device == "cpu":
        yield Problem("fp8-on-cpu", "PR")


def _words(name: str) -> str:
    return f" {name.replace('-', ' ')} "


def check_fp8_shape(*, pr: str, batch_size: int, seq_len: int, cp: int, tp: int, sp: bool) -> Findings:
    """FP8 matmuls want 16 rows at least. Source: `assert_dim_for_fp8_exec`, Transformer Engine 2.20."""
    rows = batch_size * seq_len // cp // (tp if sp else 1)
    if pr == "fp8" and rows % 16:
        yield Problem("fp8-rows", "SEQ_LEN", "PR", rows=rows)


def check_fp8_extra(
    *,
    mp_fp8_extra: str,
    mp_fp8_recipe: str,
    pr: str,
    tp: int,
    sft: bool,
    mp_lora_rank: int | None,
    mp_freeze: str | None,
    model: ModelConfig,
) -> Findings:
    """Fewer bits than fp8's: where it was measured, with one scale for a tensor and without TP over the LM head."""
    if pr != "fp8" or mp_fp8_extra == "none":
        return
    if mp_fp8_recipe != "tensorwise":
        yield Problem("fp8-extra-recipe", "MP_FP8_EXTRA", "MP_FP8_RECIPE")
    if "head" not in mp_fp8_extra:
        return
    if model.tie_embeddings:
        yield Problem("fp8-head-tied", "MP_FP8_EXTRA", "MODEL_SIZE")
    wrong = {"TP": tp > 1, "SFT": sft, "MP_LORA_RANK": mp_lora_rank is not None, "MP_FREEZE": mp_freeze is not None}
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        yield Problem("fp8-head-untried", "MP_FP8_EXTRA", name)


def check_attention(*, mp_attention_backend: str | None, fl: bool, pr: str, device: str) -> Findings:
    """cuDNN's kernels exist on GPUs only, and neither they nor FlashAttention compute in 32 bits."""
    if mp_attention_backend == "fused" and device == "cpu":
        yield Problem("attention-on-cpu", "MP_ATTENTION_BACKEND")
    asked_fused = mp_attention_backend in ("fused", "flash") or (mp_attention_backend is None and not fl)
    if asked_fused and pr == "fp32" and device == "cuda":
        yield Problem("attention-fp32", "MP_ATTENTION_BACKEND" if mp_attention_backend else "FL", "PR")


def check_gradient_precision(*, mp_grad_reduce: str, pr: str) -> Findings:
    """bf16 sums exist beside bf16 weights only."""
    if mp_grad_reduce == "bf16" and pr not in ("bf16", "fp8"):
        yield Problem("gradient-bf16", "MP_GRAD_REDUCE", "PR")
