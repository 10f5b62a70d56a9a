"""What one GPU can do at most for Llama 3.1 8B at 8192 tokens: its matmuls one by one, attention, memory.

    python benchmarks/gpu_ceilings.py [--seconds 0.4] [--sustained 20 [--gpus 4]] [--flash]

Every matmul runs back to back for a while before it is measured, so that power and clocks are those of training. A
burst of a second is not what a card sustains under its power limit: `--sustained` runs matmuls, attention, and both in
turn as in a layer, in bf16 and fp8, for so many seconds each, and prints clock, power and why the clock is held back.
The mix is the practical ceiling of a training step (train_gpu.py's column `of the mix`). Cards of one machine differ
by a few percent and a parallel run goes at the pace of its slowest: `--gpus 4` measures four at once, and writes the
slowest rate of each kind. Attention is cuDNN's, so that mixes of all days compare; `--flash` takes FlashAttention 4.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_patch.backend.gpu.attention import watch_attention
from megatron_patch.backend.gpu.libraries import use_torchs_libraries
from megatron_patch.common.command_line import ArgumentParser

TOKENS = 8192
LINEARS = {
    "qkv": (4096, 6144),
    "proj": (4096, 4096),
    "fc1": (4096, 28672),
    "fc2": (14336, 4096),
    "head": (4096, 128256),
}
"""Input and output width of each linear layer."""
COUNTS = {"qkv": 32, "proj": 32, "fc1": 32, "fc2": 32, "head": 1}


def main() -> None:
    """Print one line for each measurement, and the sum over a micro batch of 8B."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.4, help="how long each matmul runs")
    parser.add_argument("--sustained", type=float, help="only: seconds of each sustained measurement")
    parser.add_argument("--json", type=Path, help="--sustained: write the rates here, for train_gpu.py --ceilings")
    parser.add_argument("--gpus", type=int, default=1, help="--sustained: on so many at once")
    parser.add_argument("--flash", action="store_true", help="attention by FlashAttention 4, as training has it")
    options = parser.parse_args()
    seconds = options.seconds
    if options.gpus > 1 and not (options.sustained and options.json):
        parser.error("--gpus needs --sustained and --json")
    use_torchs_libraries()
    watch_attention(print, seq_length=TOKENS, allow_unfused=False, prefer_flash=options.flash)
    if options.sustained:
        if options.gpus > 1:
            more = ["--flash"] if options.flash else []
            rates = slowest(options.gpus, options.sustained, options.json, more)
        else:
            rates = measure_sustained(options.sustained)
        if options.json:
            options.json.write_text(json.dumps(rates, indent=1) + "\n")
        return
    measure_memory(seconds)
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    show("8192-cubed bf16, torch", 2 * 8192.0**3, lambda: square @ square, 3 * seconds)
    totals = {"bf16": measure_linears(seconds, fp8=False), "fp8": measure_linears(seconds, fp8=True)}
    attention = measure_attention(seconds)
    for name, total in totals.items():
        print(f"{name}: matmuls {total:.1f} ms and attention {attention:.1f} ms of one micro batch of 8B")


def measure_memory(seconds: float) -> None:
    """A large copy, and torch's elementwise addition."""
    a, b, c = (torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    per_copy = timed(lambda: b.copy_(a), seconds)
    per_add = timed(lambda: torch.add(a, b, out=c), seconds)
    print(f"copy {2 * a.nbytes / per_copy / 1e12:.2f} TB/s, addition {3 * a.nbytes / per_add / 1e12:.2f} TB/s")


def measure_linears(seconds: float, *, fp8: bool) -> float:
    """Forward, gradient of the input, gradient of the weight (added up in bf16, and in fp32), as TE runs them.

    Returns:
        milliseconds of all matmuls of one micro batch; the head stays bf16.
    """
    total = 0.0
    for name, (width_in, width_out) in LINEARS.items():
        quantized = fp8 and name != "head"
        for part, run in matmuls_of(width_in, width_out, fp8=quantized).items():
            flops = 2.0 * TOKENS * width_in * width_out
            took = show(f"{'fp8' if quantized else 'bf16'} {name} {part}", flops, run, seconds)
            if part != "weight+fp32":
                total += COUNTS[name] * took * 1e3
    return total


def matmuls_of(width_in: int, width_out: int, *, fp8: bool) -> dict[str, Callable[[], object]]:
    """The three matmuls of a linear layer [tokens, in] -> [tokens, out]."""
    from transformer_engine.pytorch.cpp_extensions import general_gemm

    inputs: Any = random(TOKENS, width_in)
    grads: Any = random(TOKENS, width_out)
    weight: Any = random(width_out, width_in)
    main_grad = torch.zeros(width_out, width_in, device="cuda", dtype=torch.bfloat16)
    main_grad32 = main_grad.float()
    if fp8:
        inputs, grads, weight = quantize(inputs), quantize(grads, "backward"), quantize(weight)
    bf16 = torch.bfloat16

    def accumulate(out: torch.Tensor) -> object:
        return general_gemm(
            inputs, grads, out_dtype=out.dtype, layout="NT", out=out, accumulate=True, use_split_accumulator=True
        )

    return {
        "forward": lambda: general_gemm(weight, inputs, out_dtype=bf16, layout="TN"),
        "input": lambda: general_gemm(weight, grads, out_dtype=bf16, layout="NN", use_split_accumulator=True),
        "weight+bf16": lambda: accumulate(main_grad),
        "weight+fp32": lambda: accumulate(main_grad32),
    }


def random(rows: int, columns: int) -> torch.Tensor:
    """Normal numbers in bf16."""
    return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16)


def quantize(tensor: torch.Tensor, role: str = "forward") -> object:
    """To fp8 with the tensor's own scale, rows and columns."""
    from transformer_engine.pytorch.constants import DType
    from transformer_engine.pytorch.tensor.float8_tensor import Float8CurrentScalingQuantizer

    kind = DType.kFloat8E5M2 if role == "backward" else DType.kFloat8E4M3
    return Float8CurrentScalingQuantizer(kind, device=torch.device("cuda"), rowwise=True, columnwise=True)(tensor)


def measure_attention(seconds: float) -> float:
    """Transformer Engine's, causal, 32 heads and 8 groups of 128. Returns milliseconds of 32 layers."""
    from transformer_engine.pytorch import DotProductAttention

    layer = DotProductAttention(32, 128, num_gqa_groups=8, attention_dropout=0.0, attn_mask_type="causal")
    query, key, value = (
        torch.randn(TOKENS, 1, heads, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (32, 8, 8)
    )
    grad = torch.randn(TOKENS, 1, 4096, device="cuda", dtype=torch.bfloat16)

    def both() -> None:
        layer(query, key, value, qkv_format="sbhd").backward(grad)

    flops = 2.0 * TOKENS * TOKENS * 4096  # causal: half of 2 x 2 s^2 h
    with torch.no_grad():
        show("attention forward", flops, lambda: layer(query, key, value, qkv_format="sbhd"), seconds)
    return 32e3 * show("attention both", 3.5 * flops, both, seconds)


def measure_sustained(seconds: float) -> dict[str, float]:
    """TFLOP/s of matmuls, attention and their mix as in a layer of 8B, in bf16 and fp8, over many seconds each."""
    from transformer_engine.pytorch import DotProductAttention

    core = DotProductAttention(32, 128, num_gqa_groups=8, attention_dropout=0.0, attn_mask_type="causal")
    query, key, value = (
        torch.randn(TOKENS, 1, heads, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (32, 8, 8)
    )
    grad = torch.randn(TOKENS, 1, 4096, device="cuda", dtype=torch.bfloat16)
    attention_flops = 3.5 * 2.0 * TOKENS * TOKENS * 4096

    def attention() -> None:
        core(query, key, value, qkv_format="sbhd").backward(grad)

    rates = {"attention": sustain("attention", attention_flops, attention, seconds)}
    for precision in ("bf16", "fp8"):
        runs = [run for widths in LAYER for run in layer_matmuls(*widths, fp8=precision == "fp8")]
        flops = 6.0 * TOKENS * sum(width_in * width_out for width_in, width_out in LAYER)

        def matmuls(runs: list[Callable[[], object]] = runs) -> None:
            for run in runs:
                run()

        def layer(matmuls: Callable[[], None] = matmuls) -> None:
            matmuls()
            attention()

        rates[f"{precision} matmuls"] = sustain(f"{precision} matmuls", flops, matmuls, seconds)
        rates[f"{precision} mix"] = sustain(f"{precision} mix", flops + attention_flops, layer, seconds)
    return rates


def slowest(gpus: int, seconds: float, file: Path, more: Sequence[str]) -> dict[str, float]:
    """The slowest rate of each kind while all of them work; `FILE.N` keeps those of GPU N."""
    files = [file.with_name(f"{file.name}.{number}") for number in range(gpus)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
    command = [sys.executable, __file__, *more, "--sustained", str(seconds), "--json"]
    running = [
        subprocess.Popen([*command, str(each)], env=os.environ | {"CUDA_VISIBLE_DEVICES": card})
        for each, card in zip(files, visible, strict=True)
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("a GPU's measurement failed")
    each_gpu = [json.loads(each.read_text()) for each in files]
    return {name: min(rates[name] for rates in each_gpu) for name in each_gpu[0]}


LAYER = tuple(widths for name, widths in LINEARS.items() if name != "head")


def layer_matmuls(width_in: int, width_out: int, *, fp8: bool) -> list[Callable[[], object]]:
    """Forward, gradient of the input, gradient of the weight summed in bf16."""
    return [run for part, run in matmuls_of(width_in, width_out, fp8=fp8).items() if part != "weight+fp32"]


def sustain(name: str, flops: float, run: Callable[[], object], seconds: float) -> float:
    """Run for so long, and print what the second half reached."""
    begin, states = time.perf_counter(), []
    half = begin + seconds / 2
    calls, since = 0, begin
    while time.perf_counter() < begin + seconds:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
        calls += 5
        states.append(clocks())
        if since < half <= time.perf_counter():
            calls, since = 0, time.perf_counter()
    rate = flops * calls / (time.perf_counter() - since) / 1e12
    print(f"{name:<14} {rate:7.1f} TFLOP/s sustained over {seconds / 2:.0f} s  {states[-1]}, {throttled()}", flush=True)
    return rate


THROTTLE_REASONS = {0x4: "power cap", 0x8: "slowed by hardware", 0x20: "temperature", 0x40: "temperature (hardware)"}


def throttled() -> str:
    """Why the clock is held back now."""
    try:
        import pynvml

        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(card)
    except Exception as error:  # nvidia-ml-py is not installed, or the container may not ask
        return f"throttling unknown ({error})"
    return ", ".join(word for bit, word in THROTTLE_REASONS.items() if reasons & bit) or "not held back"


def show(name: str, flops: float, run: Callable[[], object], seconds: float) -> float:
    """Measure and print; returns seconds of one call."""
    state: list[str] = []
    took = timed(run, seconds, state)
    print(f"{name:<24} {took * 1e3:8.3f} ms {flops / took / 1e12:7.1f} TFLOP/s  {state[0]}", flush=True)
    return took


def timed(run: Callable[[], object], seconds: float, state: list[str] | None = None) -> float:
    """Seconds of one call, over the second half of a burst; `state` gets clock and power while it runs."""
    run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    calls = max(4, int(seconds / 2 / max(time.perf_counter() - begin, 1e-6)))
    for _ in range(calls):
        run()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        run()
    end.record()
    start.synchronize()
    if state is not None:
        state.append(clocks())
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / calls


def clocks() -> str:
    """Clock and power now."""
    try:
        return f"{torch.cuda.clock_rate()} MHz, {torch.cuda.power_draw() / 1e3:.0f} W"
    except Exception as error:  # nvidia-ml-py is not installed
        return f"clock unknown ({error})"


if __name__ == "__main__":
    main()
