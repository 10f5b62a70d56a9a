"""Triton's interpreter: the kernel against the formula, in fp32 and on shapes that fill no block."""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # read when the kernel is decorated

import torch

from megatron_patch.backend.gpu.qkv_rope import SplitAndRotate, cosines_and_sines

CASES = (  # s, b, groups, ratio, head size, packed
    (7, 2, 2, 4, 64, False),
    (9, 1, 3, 7, 128, True),
    (5, 1, 1, 1, 64, True),
    (6, 3, 2, 3, 64, False),
    (3, 1, 9, 2, 64, False),
)


def formula(
    mixed: torch.Tensor, angles: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split, then x cos + rotate_half(x) sin, as in RoFormer."""
    size = angles.size(-1)
    heads = mixed.view(*mixed.shape[:3], -1, size)
    chosen = angles[:, 0, 0][rows].unsqueeze(2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * chosen.cos() + torch.cat([-second, first], -1) * chosen.sin()

    return rotate(heads[..., :-2, :].flatten(2, 3)), rotate(heads[..., -2, :]), heads[..., -1, :]


def main() -> None:
    """One line for each case: the largest differences of outputs and gradient."""
    torch.manual_seed(0)
    for length, batch, groups, ratio, size, packed in CASES:
        angles = (torch.rand(64, 1, 1, size // 2) * 50).repeat(1, 1, 1, 2)
        plain = torch.arange(length)[:, None].expand(length, batch)
        rows = torch.randint(64, (length, batch)) if packed else plain
        mixed = torch.randn(length, batch, groups, (ratio + 2) * size, requires_grad=True)
        positions = rows.reshape(-1).to(torch.int32) if packed else None
        found = SplitAndRotate.apply(mixed, cosines_and_sines(angles), positions)
        expected = formula(mixed, angles, rows)
        grads = [torch.randn_like(part) for part in expected]
        differences = [float((a - b).detach().abs().max()) for a, b in zip(found, expected, strict=True)]
        ours, theirs = (torch.autograd.grad(parts, mixed, grads)[0] for parts in (found, expected))
        print(*differences, float((ours - theirs).abs().max()))


if __name__ == "__main__":
    sys.exit(main())
