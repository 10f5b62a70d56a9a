"""Split of q, k, v and RoPE on one GPU: our kernel beside Transformer Engine's ways, time, bandwidth and error.

    python benchmarks/qkv_rope.py [--sweep]

Moved are the projection's output once, and the three parts once; backward the same. `--sweep` tries blocks and warps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_ceilings import timed
from megatron_patch.backend.gpu import qkv_rope
from megatron_patch.backend.gpu.libraries import use_torchs_libraries
from megatron_patch.common.command_line import ArgumentParser

SHAPES = {"8B": (8, 4), "8B TP2": (4, 4), "70B TP4": (2, 8), "Qwen2.5-7B": (4, 7)}
"""Groups and queries of each, of 128 columns, 8192 tokens."""
TOKENS, SIZE, SECONDS = 8192, 128, 0.15
Split = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def main() -> None:
    """A line for each shape and way: forward and backward."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    use_torchs_libraries()
    for name, (groups, ratio) in SHAPES.items():
        mixed = torch.randn(TOKENS, 1, groups, (ratio + 2) * SIZE, device="cuda", dtype=torch.bfloat16)
        mixed.requires_grad_()
        for way, run in ways(angles_of(TOKENS), ratio).items():
            show(f"{name}, {way}", run, mixed, ratio)
    if options.sweep:
        sweep()


def angles_of(tokens: int) -> torch.Tensor:
    """Llama 3's, without the scaling of long contexts: [tokens, 1, 1, SIZE]."""
    inverse = 500000.0 ** (-torch.arange(0, SIZE, 2, device="cuda", dtype=torch.float32) / SIZE)
    half = torch.outer(torch.arange(tokens, device="cuda", dtype=torch.float32), inverse)
    return torch.cat([half, half], -1)[:, None, None]


def ways(angles: torch.Tensor, ratio: int) -> dict[str, Split]:
    """Of splitting and rotating; all give [s, b, heads, d] three times."""
    from transformer_engine.pytorch.attention.rope import FusedQKVRoPEFunc, apply_rotary_pos_emb

    parts = [ratio * SIZE, SIZE, SIZE]

    def apart(mixed: torch.Tensor) -> Sequence[torch.Tensor]:
        query, key, value = torch.split(mixed, parts, dim=3)  # Megatron finds no SplitAlongDim in TE 2.20
        query = query.reshape(*query.shape[:2], -1, SIZE)
        turned = [apply_rotary_pos_emb(part, angles, tensor_format="sbhd", fused=True) for part in (query, key)]
        return *turned, value.contiguous()  # attention copies it

    table = qkv_rope.cosines_and_sines(angles)
    return {
        "apart": apart,
        "TE's one kernel": lambda mixed: FusedQKVRoPEFunc.apply(mixed, angles, angles, parts),
        "ours": lambda mixed: qkv_rope.SplitAndRotate.apply(mixed, table, None),  # type: ignore[no-untyped-call]
    }


def show(label: str, run: Split, mixed: torch.Tensor, ratio: int) -> None:
    """Time of both directions, bytes moved by the least that they need, and errors against float64."""
    with torch.no_grad():
        forward = timed(lambda: run(mixed), SECONDS)
    outputs = run(mixed)
    grads = [torch.randn_like(part) for part in outputs]
    backward = timed(lambda: torch.autograd.grad(outputs, mixed, grads, retain_graph=True), SECONDS)
    rate = [2 * mixed.nbytes / seconds / 1e12 for seconds in (forward, backward)]
    exact = mixed.detach().double().requires_grad_()
    expected = formula(exact, ratio)
    wanted = torch.autograd.grad(expected, exact, [grad.double() for grad in grads])[0]
    found = torch.autograd.grad(outputs, mixed, grads, retain_graph=True)[0]
    errors = [relative(a, b.view_as(a)) for a, b in zip((*outputs, found), (*expected, wanted), strict=True)]
    print(
        f"{label:<28} forward {forward * 1e6:6.1f} us {rate[0]:.2f} TB/s, backward {backward * 1e6:6.1f} us "
        f"{rate[1]:.2f} TB/s, errors {' '.join(f'{error:.1e}' for error in errors)}",
        flush=True,
    )


def formula(mixed: torch.Tensor, ratio: int) -> Sequence[torch.Tensor]:
    """x cos + rotate_half(x) sin, in float64."""
    heads = mixed.unflatten(-1, (ratio + 2, SIZE))
    angles = angles_of(TOKENS).double().unsqueeze(1)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    turned = rotate(heads[..., :-1, :])
    return turned[..., :-1, :].flatten(2, 3), turned[..., -1, :], heads[..., -1, :]


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Of the norms."""
    return float((found.double() - exact).norm() / exact.norm())


def sweep() -> None:
    """Blocks and warps on 8B's shape, best first."""
    mixed = torch.randn(TOKENS, 1, 8, 6 * SIZE, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    blocks = [block for block in product((1, 2, 4, 8, 16), (4, 8, 16), (2, 4, 8)) if 16 <= block[0] * block[1] <= 128]
    for seconds, block in sorted((sum(tried(mixed, *block)), block) for block in blocks):
        print("tokens {:2} heads {:2} warps {}".format(*block), f"{seconds * 1e6:6.1f} us both ways")


def tried(mixed: torch.Tensor, tokens: int, heads: int, warps: int) -> tuple[float, float]:
    """Seconds forward and backward."""
    qkv_rope.BLOCK_TOKENS, qkv_rope.BLOCK_HEADS, qkv_rope.WARPS = tokens, heads, warps
    table = qkv_rope.cosines_and_sines(angles_of(TOKENS))

    def split(qkv: torch.Tensor) -> Any:
        return qkv_rope.SplitAndRotate.apply(qkv, table, None)  # type: ignore[no-untyped-call]

    outputs = split(mixed)
    grads = [torch.randn_like(part) for part in outputs]
    with torch.no_grad():
        forward = timed(lambda: split(mixed), 0.05)
    return forward, timed(lambda: torch.autograd.grad(outputs, mixed, grads, retain_graph=True), 0.05)


if __name__ == "__main__":
    main()
