"""The predicted time of LoRA: frozen weights have no gradients, and adapters read and write activations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_patch.launch.gpu_kinds import H100, H200, NETWORKS, GpuKind
from megatron_patch.launch.layout import Layout
from megatron_patch.launch.step_time import StepTime, step_time
from megatron_patch.launch.work import Work
from megatron_patch.models import model_of_size
from megatron_patch.peft.settings import LoraSettings

MEASURED = {("bf16", False): 1.821, ("bf16", True): 1.432, ("fp8", False): 1.465, ("fp8", True): 1.223}
"""Seconds of a step, suite `lora` on an H100: docs/performance.md. Nothing was fitted to those of LoRA."""


def predicted(
    precision: str,
    *,
    lora: bool = False,
    dp: int = 1,
    recompute: str = "none",
    kind: GpuKind = H100,
    micro_batches: int = 16,
    trained_share: float = 1.0,
) -> StepTime:
    """4 layers of 8B, packed conversations at 4096, micro batches of 2."""
    layout = Layout(
        nodes=1, processes=dp, tp=1, pp=1, chunks=1, cp=1, dp=dp,
        sequence_parallel=False, stage_layers=(4,), ends_count=False,
    )  # fmt: skip
    work = Work(
        model=replace(model_of_size("8B"), num_layers=4),
        vocab_rows=128256,
        seq_len=4096,
        micro_batch=2,
        micro_batches=micro_batches,
        precision=precision,
        recompute=recompute,
        sample_tokens=150,
        trained_share=trained_share,
        adapters=LoraSettings(rank=16, alpha=32) if lora else None,
        flash=False,
        own_kernels=False,  # measured before there were any
    )
    return step_time(work, layout, kind, NETWORKS["400Gb"])


@pytest.mark.parametrize(("precision", "lora"), MEASURED)
def test_measured_runs_are_predicted_within_5_percent(precision: str, lora: bool) -> None:
    assert predicted(precision, lora=lora).total == pytest.approx(MEASURED[precision, lora], rel=0.05)


@pytest.mark.parametrize(("precision", "saved"), [("bf16", 0.935 - 0.781), ("fp8", 0.733 - 0.592)])
def test_what_logits_at_trained_positions_only_save(precision: str, saved: float) -> None:
    """Half of them, 8 micro batches on an H200: docs/performance.md."""
    everywhere, chosen = (predicted(precision, kind=H200, micro_batches=8, trained_share=share) for share in (1, 0.5))
    assert everywhere.total - chosen.total == pytest.approx(saved, rel=0.15)


def test_what_lora_saves() -> None:
    full, lora = (predicted("bf16", lora=lora, dp=2) for lora in (False, True))
    assert lora.matmul / full.matmul == pytest.approx(2 / 3, abs=0.03)
    assert lora.elementwise > full.elementwise and lora.launch > full.launch
    assert lora.data_parallel < full.data_parallel / 50 and lora.optimizer < full.optimizer / 50


def test_recomputation_is_a_forward_pass() -> None:
    """A third of full training's matmuls, half of LoRA's: the same seconds."""
    full, lora = (predicted("bf16", lora=lora, recompute="full") for lora in (False, True))
    assert full.recompute < lora.recompute < 1.25 * full.recompute
