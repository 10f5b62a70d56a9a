"""--fewer-passes and --fp8-extra against the same run without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..trainer.harness import Run, worst
from .conftest import Once
from .harness import BF16, FP8, recorded, train

TENSORWISE = FP8 + "--fp8-recipe tensorwise"
ALL_PASSES = "--fewer-passes"
"""With no name after it."""
ROUNDING = 4e-3
"""Nats over 20 iterations at a learning rate of 1e-3, where a few values are rounded otherwise."""
FEWER_BITS = 0.06
"""As for fp8 itself against fp32."""


@pytest.fixture(scope="module")
def fp8(once: Once, data: Path, start: str) -> Run:
    return recorded(once("fp8", lambda folder: train(folder, data, f"{start} {TENSORWISE} {ALL_PASSES}")))


@pytest.fixture(scope="module")
def plain(once: Once, data: Path, start: str) -> Run:
    return recorded(once("bf16-plain", lambda folder: train(folder, data, f"{start} {BF16} {ALL_PASSES}")))


def test_residual(tmp_path: Path, data: Path, start: str, plain: Run) -> None:
    """Added in fp32 inside the norm's kernel, instead of in bf16 after it."""
    assert worst(train(tmp_path, data, f"{start} {BF16} --fewer-passes residual"), plain) <= ROUNDING


def test_residual_under_recomputation(tmp_path: Path, data: Path, start: str, plain: Run) -> None:
    recomputed = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
    whole = train(tmp_path / "whole", data, f"{start} {BF16} --fewer-passes residual")
    again = train(tmp_path / "again", data, f"{start} {BF16} --fewer-passes residual {recomputed}")
    assert again.losses == whole.losses
    assert whole.losses != plain.losses  # else nothing was added inside the norm


def test_projection_is_bitwise(tmp_path: Path, data: Path, start: str, fp8: Run) -> None:
    """The same numbers are cast with the same scale, once instead of twice."""
    assert train(tmp_path, data, f"{start} {TENSORWISE} --fewer-passes projection").losses == fp8.losses


@pytest.mark.parametrize("passes", ["--fewer-passes swiglu", ""], ids=["swiglu", "default"])
def test_fp8(tmp_path: Path, data: Path, start: str, fp8: Run, passes: str) -> None:
    """SwiGLU's largest value is found before it is rounded to bf16."""
    assert worst(train(tmp_path, data, f"{start} {TENSORWISE} {passes}"), fp8) <= 10 * ROUNDING


@pytest.mark.parametrize("extra", ["sums", "head", "sums head"])
def test_extra(tmp_path: Path, data: Path, start: str, cpu: Run, extra: str) -> None:
    """What has fewer bits learns as fp32 does, from the same weights."""
    assert worst(train(tmp_path, data, f"{start} {TENSORWISE} --fp8-extra {extra}"), cpu) <= FEWER_BITS


def test_the_kernel_that_adds() -> None:
    """rmsnorm_bwd_add against rmsnorm_bwd and an addition, both against float64."""
    import transformer_engine.pytorch  # noqa: F401
    import transformer_engine_torch as tex

    torch.manual_seed(0)
    x, grad, add = (torch.randn(8192, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    weight = torch.rand(4096, device="cuda", dtype=torch.bfloat16) + 0.5
    deviation = x.float().square().mean(-1).add(1e-5).rsqrt()
    apart, weight_apart = tex.rmsnorm_bwd(grad, x, deviation, weight, 0, False)
    together, weight_together = tex.rmsnorm_bwd_add(grad, x, add, deviation, weight, 0, False)
    wide, inverse = x.double(), deviation.double()[:, None]
    scaled = grad.double() * weight.double()
    exact = add.double() + inverse * (scaled - wide * inverse * (scaled * wide * inverse).mean(-1, keepdim=True))
    errors = [float((found.double() - exact).norm() / exact.norm()) for found in (together, apart + add)]
    assert errors[0] < 2.5e-3 and errors[0] <= errors[1]
    assert torch.equal(weight_apart, weight_together)


def test_swiglu_gives_what_a_cast_gives() -> None:
    """Both passes, at 8B's width; the transposed copy survives as_matrix."""
    import transformer_engine.pytorch  # noqa: F401
    import transformer_engine_torch as tex
    from transformer_engine.pytorch.constants import DType
    from transformer_engine.pytorch.tensor.float8_tensor import Float8CurrentScalingQuantizer

    from megatron_patch.backend.gpu.fp8_layers import QuantizedSwiGLU, as_matrix

    torch.manual_seed(0)
    device = torch.device("cuda")
    narrow, wide = (Float8CurrentScalingQuantizer(kind, device) for kind in (DType.kFloat8E4M3, DType.kFloat8E5M2))
    x = torch.randn(4096, 1, 2 * 14336, device=device, dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(4096, 1, 14336, device=device, dtype=torch.bfloat16)
    found = QuantizedSwiGLU.apply(x, narrow, wide)
    expected = narrow(tex.swiglu(x.detach(), None))
    (x_grad,) = torch.autograd.grad(found, x, grad)
    x_expected = wide(tex.dswiglu(grad, x.detach(), None))
    for ours, theirs in ((found, expected), (x_grad, x_expected)):
        # one largest value is found before it is rounded to bf16, so scales differ by 2^-9 at most
        assert abs(float(ours._scale_inv / theirs._scale_inv) - 1) < 2**-8
        assert float((ours.dequantize() - theirs.dequantize()).norm() / theirs.dequantize().norm()) < 4e-2
        matrix = as_matrix(ours)
        assert matrix._transpose is not None and torch.equal(matrix._transpose, matrix._data.T)
