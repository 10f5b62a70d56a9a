"""What a CPU trained, a GPU trains: precisions, recomputation, resume, attention kernels, layouts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ..trainer.harness import Run, worst
from .conftest import Once
from .harness import BF16, FP8, launch, recorded, train

FP32_TOLERANCE = 1e-4
"""Nats over 20 iterations, GPU against CPU: other sums, other order."""
TOLERANCES = {"bf16": 0.02, "fp16": 0.02, "fp8": 0.06}
"""Nats over 20 iterations against fp32: 8, 11 and 3 bits of mantissa, at a learning rate of 1e-3."""


@pytest.fixture(scope="module")
def bf16(once: Once, data: Path, start: str) -> Run:
    """20 iterations in bf16 on one GPU; saved at 10."""

    def make(folder: Path) -> None:
        run = train(folder, data, f"{start} {BF16} --save {folder}/checkpoints --save-interval 10")
        (folder / "screen.txt").write_text(run.stdout)

    folder = once("bf16", make)
    return replace(recorded(folder), stdout=(folder / "screen.txt").read_text())


def test_fp32_as_on_the_cpu(tmp_path: Path, data: Path, start: str, cpu: Run) -> None:
    """Transformer Engine against torch's modules; the GPU loads what the CPU saved."""
    run = train(tmp_path, data, f"{start} --cross-entropy-loss-fusion")
    assert worst(run, cpu) <= FP32_TOLERANCE


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        ("fp16", "--fp16 --initial-loss-scale 65536"),
        ("fp8", FP8 + "--fp8-recipe tensorwise"),
        ("fp8", FP8 + "--fp8-recipe delayed --fp8-amax-history-len 1024 --fp8-amax-compute-algo max"),
        ("fp8", FP8 + "--fp8-recipe blockwise --ffn-hidden-size 128"),
    ],
    ids=["fp16", "tensorwise", "delayed", "blockwise"],
)
def test_precisions(tmp_path: Path, data: Path, start: str, cpu: Run, precision: str, flags: str) -> None:
    """They learn as fp32 does, from the same weights."""
    run = train(tmp_path, data, f"{start} {flags}")
    assert worst(run, cpu) <= TOLERANCES[precision]


def test_bf16(bf16: Run, cpu: Run) -> None:
    """The reference of the tests below is right itself."""
    assert worst(bf16, cpu) <= TOLERANCES["bf16"]
    assert "attention cuDNN" in bf16.stdout


def test_resume_is_bitwise(bf16: Run, data: Path, tmp_path: Path) -> None:
    """From the checkpoint of iteration 10."""
    shutil.copytree(bf16.output, tmp_path / "again")
    checkpoints = tmp_path / "again" / "checkpoints"
    shutil.rmtree(checkpoints / "iter_0000020")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("10")
    run = train(tmp_path / "again", data, f"{BF16} --load {checkpoints} --ckpt-step 10")
    assert run.losses == bf16.losses


@pytest.mark.parametrize(
    "flags",
    [
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
        "--recompute-granularity selective",
        "--cpu-offloading-num-layers 2",
        "--fine-grained-activation-offloading --offload-modules core_attn attn_proj --min-offloaded-tensor-size 1",
        "--fused-single-qkv-rope",
    ],
    ids=["full", "selective", "offload", "fine-grained offload", "rope"],
)
def test_same_arithmetic(tmp_path: Path, data: Path, start: str, bf16: Run, flags: str) -> None:
    """What changes where and when, not what, is computed: bitwise."""
    run = train(tmp_path, data, f"{start} {BF16} {flags}")
    assert run.losses == bf16.losses


OFFLOADED = "--use-distributed-optimizer --use-precision-aware-optimizer --optimizer-cpu-offload "


def test_optimizer_offload(tmp_path: Path, data: Path, start: str, bf16: Run) -> None:
    """Adam on the processor: the same formula, another order of operations."""
    run = train(tmp_path, data, f"{start} {BF16} {OFFLOADED} --optimizer-offload-fraction 1.0")
    assert worst(run, bf16) <= 2e-3


@pytest.mark.parametrize(
    "flags",
    [
        "--fp8-recipe tensorwise",
        "--fp8-recipe delayed --fp8-amax-history-len 1024 --fp8-amax-compute-algo max --fp8-param-gather",
    ],
    ids=["tensorwise", "delayed"],
)
def test_optimizer_offload_in_fp8(tmp_path: Path, data: Path, start: str, cpu: Run, flags: str) -> None:
    """Weights that go back to the GPU in bf16, and weights that are quantized there."""
    run = train(
        tmp_path, data, f"{start} {BF16} --fp8-format hybrid {flags} {OFFLOADED} --optimizer-offload-fraction 0.7"
    )
    assert worst(run, cpu) <= TOLERANCES["fp8"]


COMPACT = {
    "remainders": "--use-precision-aware-optimizer",
    "bf16 moments": "--use-precision-aware-optimizer --exp-avg-dtype bf16 --exp-avg-sq-dtype bf16",
    "half on the processor": OFFLOADED + "--optimizer-offload-fraction 0.5",
    "on the processor": OFFLOADED + "--optimizer-offload-fraction 1.0",
}


@pytest.mark.parametrize("form", COMPACT.values(), ids=COMPACT)
def test_checkpoint_of_a_compact_optimizer(tmp_path: Path, data: Path, start: str, form: str) -> None:
    """It keeps 16 bits of its fp32 copies, or keeps them elsewhere.

    The run resumes bitwise; one that keeps them whole goes on from it too.
    """
    flags = f"{BF16} --use-distributed-optimizer --dist-ckpt-optim-fully-reshardable"
    saving = f"--background-save --save {tmp_path}/checkpoints --save-interval 10"
    whole = train(tmp_path / "whole", data, f"{start} {flags} {form} {saving}")
    loading = f"--load {tmp_path}/checkpoints --ckpt-step 10"
    again = train(tmp_path / "again", data, f"{flags} {form} {loading}")
    assert again.losses == whole.losses[10:]
    other = train(tmp_path / "other", data, f"{flags} {loading}")
    assert max(abs(a - b) for a, b in zip(other.losses, whole.losses[10:], strict=True)) <= 2e-3


def test_unfused_attention_is_refused_at_long_sequences(tmp_path: Path, data: Path) -> None:
    """In fp32 no fused kernel exists; the message says what to do, and the flag lets it pass."""
    long = "--seq-length 2048 --max-position-embeddings 2048 --train-iters 2 --global-batch-size 2 --micro-batch-size 1"
    long += " --lr-warmup-iters 0"
    refused = launch(tmp_path / "refused", data, long)
    assert refused.returncode != 0
    assert "MP_ALLOW_UNFUSED_ATTENTION=1" in refused.stderr
    assert "Disabling FusedAttention" in refused.stderr
    allowed = train(tmp_path / "allowed", data, f"{long} --allow-unfused-attention")
    assert len(allowed.losses) == 2
    assert "attention unfused" in allowed.stdout


LAYOUTS = {
    "TP2": "--tensor-model-parallel-size 2 --sequence-parallel",
    "PP2": "--pipeline-model-parallel-size 2",
    "CP2": "--context-parallel-size 2",
    "DP2": "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather",
}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("flags", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path: Path, data: Path, start: str, bf16: Run, flags: str) -> None:
    """Two GPUs against one, in bf16."""
    run = train(tmp_path, data, f"{start} {BF16} {flags}", processes=2)
    assert worst(run, bf16) <= TOLERANCES["bf16"]
