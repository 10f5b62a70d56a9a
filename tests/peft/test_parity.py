"""LoRA against Hugging Face's PEFT: the same base, adapters and batches, 20 steps of AdamW in fp32."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from megatron_patch.checkpoint.adapters import export_adapter
from megatron_patch.peft.folder import WEIGHTS

from .world import STEPS, Compared

FIRST_LOSS, EVERY_LOSS, LAYOUT = 2e-6, 1e-4, 2e-6


def test_losses_and_gradient_norms_are_pefts(compared: Compared) -> None:
    ours, theirs = compared.ours, compared.theirs
    gaps = [abs(mine - other["loss"]) for mine, other in zip(ours.losses, theirs, strict=True)]
    print(f"loss {ours.losses[0]:.4f} to {ours.losses[-1]:.4f}; first gap {gaps[0]:.1e}, largest {max(gaps):.1e}")
    assert len(gaps) == STEPS and gaps[0] <= FIRST_LOSS and max(gaps) <= EVERY_LOSS, gaps
    norms = [record["grad_norm"] for record in ours.metrics if "loss" in record]
    assert norms == pytest.approx([record["grad_norm"] for record in theirs], rel=1e-3)
    assert ours.losses[-1] < ours.losses[0] - 0.1, "nothing was learned, so nothing was compared"


def test_adapters(compared: Compared) -> None:
    """After 20 steps the adapters themselves are PEFT's, tensor by tensor."""
    folder = compared.world.folder
    export_adapter(compared.ours.output, folder / "compared")
    mine, other, start = (load_file(folder / name / WEIGHTS) for name in ("compared", "theirs", "adapter"))
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        moved = (other[name] - start[name]).norm()
        assert moved > 0
        assert (tensor - other[name]).norm() <= 1e-4 * other[name].norm(), name


TP2, PP2, CP2 = "--tensor-model-parallel-size 2 ", "--pipeline-model-parallel-size 2 ", "--context-parallel-size 2 "


@pytest.mark.parametrize(
    ("processes", "flags"),
    [
        pytest.param(2, TP2 + "--sequence-parallel", id="TP2+SP"),
        pytest.param(2, TP2, id="TP2", marks=pytest.mark.slow),
        pytest.param(2, PP2, id="PP2", marks=pytest.mark.slow),
        pytest.param(2, PP2 + "--num-layers-per-virtual-pipeline-stage 1", id="VPP", marks=pytest.mark.slow),
        pytest.param(2, CP2, id="CP2", marks=pytest.mark.slow),
        pytest.param(2, "--use-distributed-optimizer --overlap-grad-reduce", id="DP2+DO", marks=pytest.mark.slow),
        pytest.param(4, TP2 + PP2 + "--sequence-parallel", id="TP2xPP2+SP", marks=pytest.mark.slow),
        pytest.param(
            1,
            "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
            id="AC",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_layout_loses_as_one_process_does(
    compared: Compared, processes: int, flags: str, request: pytest.FixtureRequest
) -> None:
    run = compared.world.train(request.node.callspec.id, flags, processes=processes)
    gap = max(abs(a - b) for a, b in zip(run.losses, compared.ours.losses, strict=True))
    print(f"{flags}: {gap:.1e}")
    assert run.flops == pytest.approx(compared.ours.flops)
    assert gap <= LAYOUT
