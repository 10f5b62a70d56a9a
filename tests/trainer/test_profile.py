"""Kernels by kind: names of real kernels, times on overlapping streams."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_patch.common.kernel_kinds import CPU_KINDS, covered, kind_of
from megatron_patch.trainer.callbacks import Rank, Step
from megatron_patch.trainer.callbacks.profile import Profiler
from megatron_patch.trainer.profile import profile_of
from megatron_patch.trainer.screen import Screen
from megatron_patch.trainer.startup import Startup


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
    profile = profile_of(profiler, [3, 4], [], 1.0, cuda=True)
    kinds = [(kind, round(time, 6), calls) for kind, time, calls in profile.kinds()]
    assert kinds == [("matmuls", 0.6, 1), ("communication", 0.3, 1), ("idle", 0.25, 0)]
    assert profile.exposed_communication_s == pytest.approx(0.15)
    lines = "\n".join(profile.lines(0))
    assert "iterations 3 to 4: 500.0 ms each" in lines and "15.0% while nothing else ran" in lines


def profiled(output: Path, asked: str, *, begun: int = 0, last: int = 9, passed: tuple[int, ...] = ()) -> list[str]:
    """The callback, told of the iterations `begun + 1` to `last` without those that are passed over; what it says."""
    screen = Screen(io.StringIO(), speaks=True)
    startup = Startup(time.time())
    rank = Rank(
        rank=0, world_size=1, output_dir=output, device="CPU process", unit="process", screen=screen, startup=startup
    )
    profiler = Profiler(rank)
    args = SimpleNamespace(trace_iterations=asked, trace_ranks="0", device="cpu", iteration=begun)
    args.iterations_to_skip = []
    profiler.arguments(args)
    profiler.train_start(args, [])
    args.iterations_to_skip = list(passed)  # by another callback, after this one was told
    for iteration in range(begun + 1, last + 1):
        if iteration not in passed:
            profiler.step_begins(iteration)
            profiler.step(step_of(iteration))
    profiler.close()
    profiler.end(SimpleNamespace())  # type: ignore[arg-type]
    return str(screen.stream.getvalue()).splitlines()  # type: ignore[attr-defined]


def step_of(iteration: int) -> Step:
    counts = {"consumed_samples": 0, "batch_samples": 0, "peak_memory_bytes": 0}
    return Step(iteration=iteration, loss=1.0, lr=1.0, grad_norm=1.0, skipped=False, seconds=0, flops=0, **counts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "recorded", "steps", "words"),
    [
        ({}, [4, 6], 3, "iterations 4 to 6: "),
        ({"begun": 4}, [5, 6], 2, "iterations 5 to 6: "),
        ({"begun": 2, "passed": (3, 4)}, [5, 6], 2, "iterations 5 to 6: "),
        ({"passed": (6, 7)}, [4, 5], 2, "iterations 4 to 5: "),
        ({"passed": (5,)}, [4, 6], 2, "iterations 4 to 6 without 5 (passed over): "),
        ({"begun": 3, "passed": (4,)}, [5, 6], 2, "iterations 5 to 6: "),
    ],
)
def test_only_what_was_run_is_counted(
    tmp_path: Path, given: dict[str, int], recorded: list[int], steps: int, words: str
) -> None:
    said = profiled(tmp_path, "4-6", **given)  # type: ignore[arg-type]
    profile = json.loads((tmp_path / "profile" / "rank_0.json").read_text())
    assert (profile["iterations"], profile["steps"], profile["skipped"]) == (recorded, steps, [])
    assert said[0].startswith(f"profile of rank 0, {words}")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"begun": 2, "passed": (3, 4, 5, 6)}, ["they were passed over"]),
        ({"last": 5}, ["the run ended after iteration 5"]),
        ({"last": 2}, ["the run ended after iteration 2"]),
        ({"begun": 6}, []),  # the plan has a note
    ],
)
def test_no_profile_is_said(tmp_path: Path, given: dict[str, int], why: list[str]) -> None:
    assert profiled(tmp_path, "4-6", **given) == [  # type: ignore[arg-type]
        f"no profile of iterations 4-6 (MP_PROFILE): {one}" for one in why
    ]
    assert not (tmp_path / "profile").exists()
