"""The z-loss: equal to the plain formula in fp32 with its gradient, at TP 1 and 2, in the memory of the logits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..trainer import harness, warm

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("ranks", [1, 2])
def test_equals_the_plain_formula_in_place(ranks: int, tmp_path: Path) -> None:
    script, environ = Path(__file__).with_name("z_loss_worker.py"), harness.environment()
    status = warm.run(script, [], processes=ranks, environ=environ, screen=tmp_path / "screen", timeout=300)
    assert status == 0, (tmp_path / "screen.err").read_text()
    lines = [line.split() for line in (tmp_path / "screen.out").read_text().splitlines()]
    differences = [float(word) for line in lines if line[0] == "differences" for word in line[1:]]
    assert len(differences) == 3 * ranks
    assert max(differences) < 1e-5, "losses near 30, fp32"
    memory = [line for line in lines if line[:2] == ["in", "place"]]
    assert [line[2] for line in memory] == ["True"] * ranks, "the gradient lies where the logits lay"
    assert max(float(line[3]) for line in memory) < 0.25, "forward makes nothing of the logits' size"


def test_bf16_against_fp32() -> None:
    """The sums are fp32: only the gradient is rounded, once."""
    code = """
import torch
from megatron_patch.backend.z_loss import CrossEntropyWithLogZ
class One:
    def size(self): return 1
    def rank(self): return 0
torch.manual_seed(0)
logits = (torch.randn(4, 3, 5000) * 5).bfloat16()
labels = torch.randint(5000, (4, 3))
exact = logits.float().requires_grad_()
z = torch.logsumexp(exact, -1); ce = z - exact.gather(-1, labels[..., None])[..., 0]
(ce.sum() + z.square().sum()).backward()
mine = logits.clone().requires_grad_()
loss, log_z = CrossEntropyWithLogZ.apply(mine * 1, labels, One())
(loss.sum() + log_z.square().sum()).backward()
assert torch.allclose(loss, ce, atol=1e-5) and torch.allclose(log_z, z, atol=1e-5)
assert mine.grad.dtype == torch.bfloat16
assert torch.equal(mine.grad, exact.grad.bfloat16()) or (mine.grad.float() - exact.grad).abs().max() < 0.02
"""
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
