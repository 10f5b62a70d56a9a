"""Kernels by kind: names of real kernels, times on overlapping streams."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from megatron_patch.common.kernel_kinds import CPU_KINDS, covered, kind_of
from megatron_patch.trainer.profile import profile_of


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_sm90_tst_256x128_64x4_2x1_v_bz_coopA_TNN", "matmuls"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matmuls"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_6_64x128x128", "attention"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "communication"),
        ("Memcpy DtoD (Device -> Device)", "memory copies"),
        ("void transformer_engine::normalization::rmsnorm_fwd_tuned_kernel<...>", "norms"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "residuals"),
        ("void at::native::reduce_kernel<512, 1>", "other"),
    ],
)
def test_kinds_of_kernels(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_kinds_of_operators() -> None:
    said = {name: kind_of(name, CPU_KINDS) for name in ("aten::mm", "aten::add_", "aten::copy_", "gloo:all_reduce")}
    assert list(said.values()) == ["matmuls", "elementwise", "memory copies", "communication"]


def test_the_union_of_spans() -> None:
    assert covered([(0, 2), (1, 3), (5, 6), (5.2, 5.4)]) == pytest.approx(4.0)


def test_time_on_two_streams() -> None:
    """A second: 0.6 of a matmul, 0.3 of communication that half lies beside it, 0.25 of nothing."""

    def event(name: str, start: float, end: float, device: str = "DeviceType.CUDA") -> SimpleNamespace:
        return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(start=start, end=end))

    events = [
        event("nvjet", 0, 600_000),
        event("ncclDevKernel_AllGather", 450_000, 750_000),
        event("Optimizer.step#Adam", 0, 1_000_000),
        event("aten::mm", 0, 900_000, "DeviceType.CPU"),
    ]
    profiler = SimpleNamespace(events=lambda: events)
    profile = profile_of(profiler, first=3, last=4, wall_s=1.0, cuda=True)
    kinds = [(kind, round(time, 6), calls) for kind, time, calls in profile.kinds()]
    assert kinds == [("matmuls", 0.6, 1), ("communication", 0.3, 1), ("idle", 0.25, 0)]
    assert profile.exposed_communication_s == pytest.approx(0.15)
    lines = "\n".join(profile.lines(0))
    assert "iterations 3 to 4: 500.0 ms each" in lines and "15.0% while nothing else ran" in lines
