"""One rank of a benchmark run: imports everything, waits to be called, trains; measures phases and, if asked, kernels.

Started by train_gpu.py while the run before it still trains, so that the 10 s of imports cost no device time. After
the gate it is the ordinary rank: `megatron_patch.trainer.entry.main`.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PHASES = (
    "initialize_megatron",
    "setup_model_and_optimizer",
    "get_model",
    "get_megatron_optimizer",
    "load_checkpoint",
    "build_train_valid_test_data_iterators",
    "train_step",
    "save_checkpoint_and_time",
)
"""Functions of megatron.training.training whose first call is timed."""


def main() -> None:
    """Arguments: the output file for measurements, then the flags of the trainer."""
    report, *flags = sys.argv[1:]
    sys.path.insert(0, str(REPOSITORY))
    connections = os.environ.get("BENCH_CONNECTIONS")
    if connections:
        os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = connections
    started = time.perf_counter()
    import_everything(flags)
    measured: dict[str, Any] = {"imports": time.perf_counter() - started}
    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # the benchmark was stopped
    measured["go"] = time.time()
    if connections:
        begin_cuda()
    watch_phases(measured)
    watch_saves(measured)
    if os.environ.get("BENCH_PROFILE") and os.environ["RANK"] in os.environ.get("BENCH_PROFILE_RANKS", "0").split(","):
        profile_step(int(os.environ["BENCH_PROFILE"]), Path(report))
    if os.environ.get("BENCH_HOST") and os.environ["RANK"] == "0":
        sample_host(int(os.environ["BENCH_HOST"]), Path(report))
    sys.argv = ["pretrain_llama.py", *flags]
    from megatron_patch.trainer.entry import main as train

    try:
        train()
    finally:
        if os.environ["RANK"] == "0":
            Path(report).write_text(json.dumps(measured))


def begin_cuda() -> None:
    """Make the CUDA context, with BENCH_CONNECTIONS; Megatron asserts afterwards that they are one."""
    import torch

    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.zeros(1, device="cuda")
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"


def import_everything(flags: list[str]) -> None:
    """What the trainer imports, in its order; touches no GPU memory."""
    from megatron_patch.backend import enable

    enable(flags[flags.index("--device") + 1])
    if os.environ.get("BENCH_NATIVE_CROSS_ENTROPY"):
        from megatron.core.models.common.language_module import language_module as module

        module.fused_vocab_parallel_cross_entropy = module.fused_vocab_parallel_cross_entropy.__wrapped__
    if os.environ.get("BENCH_MEGATRONS_OFFLOAD"):
        from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer

        for name, method in list(vars(HybridDeviceOptimizer).items()):
            if hasattr(method, "__wrapped__") and not isinstance(method, staticmethod):
                setattr(HybridDeviceOptimizer, name, method.__wrapped__)
    if os.environ.get("BENCH_HOLD_NOTHING"):
        from megatron_patch.backend import gpu_memory

        gpu_memory.KEPT_FREE = 1.0
    import megatron.training.training  # noqa: F401
    import rich.progress  # noqa: F401
    import transformers  # noqa: F401
    from megatron.training.argument_utils import gpt_config_from_args  # noqa: F401


def watch_phases(measured: dict[str, Any]) -> None:
    """Start and length of each phase's first call, in seconds after the gate opened."""
    import megatron.training.training as training

    for name in PHASES:
        if hasattr(training, name):
            setattr(training, name, _timed(getattr(training, name), name, measured))


def watch_saves(measured: dict[str, Any]) -> None:
    """Start and length of every call of what a checkpoint makes training wait for, and of the copy to RAM."""
    from megatron.training import checkpointing, training

    from megatron_patch.backend.saving import asynchronous, host_copies

    calls = measured["saves"] = {}
    for place, name in (
        (training, "save_checkpoint_and_time"),  # the whole, in the step
        (checkpointing, "generate_state_dict"),  # of it: which tensors there are
        (checkpointing.dist_checkpointing, "save"),  # of it: all ranks agree who writes what
        (asynchronous, "hold"),  # of it: copies on the GPU
        (asynchronous.Save, "wait_until_copied"),  # of the next step: its optimizer waits
        (host_copies.Copier, "copy"),  # in a thread: to RAM
    ):
        calls[name] = []
        setattr(place, name, _noted(getattr(place, name), calls[name], measured["go"]))


def _noted(function: Any, calls: list[list[float]], go: float) -> Any:
    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        begin = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            calls.append([round(begin - go, 4), round(time.time() - begin, 4)])

    return noted


def _timed(function: Any, name: str, measured: dict[str, Any]) -> Any:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.time()
        result = function(*args, **kwargs)
        if name not in measured:
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()
            measured[name] = [begin - measured["go"], time.time() - begin]
        return result

    return timed


def at_step(iteration: int, watch: Callable[[Callable[[], Any]], Any]) -> None:
    """Have one training step (counted from 1) run by `watch`, which gets it as a function and returns its result."""
    import megatron.training.training as training

    original, calls = training.train_step, [0]

    def train_step(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        step = functools.partial(original, *args, **kwargs)
        return watch(step) if calls[0] == iteration else step()

    training.train_step = train_step


def profile_step(iteration: int, report: Path) -> None:
    """Record the kernels of one training step: a table, and a trace for a picture."""
    from torch.profiler import ProfilerActivity, profile

    def watch(step: Callable[[], Any]) -> Any:
        import torch

        torch.cuda.synchronize()
        begin = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            result = step()
            torch.cuda.synchronize()
        wall = time.perf_counter() - begin
        name = f"{report.with_suffix('')}-rank{os.environ['RANK']}"
        _write_profile(profiler, wall, Path(f"{name}.profile.json"))
        if os.environ.get("BENCH_TRACE"):
            profiler.export_chrome_trace(f"{name}.trace.json.gz")
        return result

    at_step(iteration, watch)


def sample_host(iteration: int, report: Path) -> None:
    """Write where Python was during one training step."""
    from benchmarks.host_samples import HostSamples

    def watch(step: Callable[[], Any]) -> Any:
        samples = HostSamples()
        samples.start()
        try:
            return step()
        finally:
            report.with_suffix(".host.txt").write_text(samples.stop())

    at_step(iteration, watch)


def _write_profile(profiler: Any, wall: float, path: Path) -> None:
    """Kernels with count and time, and how long the device computed, communicated, or did nothing."""
    kernels: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    events = []
    for event in profiler.events():
        if str(event.device_type).endswith("CUDA") and event.time_range.elapsed_us() > 0:
            entry = kernels[event.name]
            entry[0] += 1
            entry[1] += event.time_range.elapsed_us()
            events.append((event.time_range.start, event.time_range.end, event.name))
    from megatron_patch.common.kernel_kinds import covered, kind_of

    compute = covered([(start, end) for start, end, name in events if kind_of(name) != "communication"])
    either = covered([(start, end) for start, end, _ in events])
    content = {
        "gaps": _gaps(events)[:20],
        "wall_s": wall,
        "device_busy_s": either / 1e6,
        "compute_s": compute / 1e6,
        "exposed_communication_s": (either - compute) / 1e6,
        "kernels": {name: {"count": c, "us": us} for name, (c, us) in sorted(kernels.items(), key=lambda k: -k[1][1])},
    }
    path.write_text(json.dumps(content, indent=1))


def _gaps(events: list[tuple[float, float, str]]) -> list[dict[str, Any]]:
    """Times in which the device did nothing, longest first, with the kernels before and after."""
    gaps, reached, last = [], float("inf"), ""
    for start, end, name in sorted(events):
        if start > reached:
            gaps.append(
                {"ms": (start - reached) / 1e3, "after": last[:60], "before": name[:60], "at_ms": reached / 1e3}
            )
        if end > reached or not last:
            reached, last = end, name
    return sorted(gaps, key=lambda gap: -gap["ms"])


if __name__ == "__main__":
    main()
