"""The part of an optimizer's step that is the processor's; the copies to and from a GPU are in tests/gpu."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

from megatron_patch.backend.gpu import offloaded_adam
from megatron_patch.backend.gpu.offloaded_adam import Window, in_ram


def test_windows_are_torchs_adam() -> None:
    """Bit by bit, wherever a window ends."""
    torch.manual_seed(0)
    weights = torch.randn(1000)
    copy, exp_avg, exp_avg_sq = in_ram(weights).copy_(weights), in_ram(weights), in_ram(weights)
    whole = weights.clone().requires_grad_()
    adam = torch.optim.AdamW([whole], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    step = torch.zeros(())
    for _ in range(3):
        whole.grad = torch.randn(1000)
        adam.step()
        step += 1
        pieces = (tensor.split(96) for tensor in (whole.grad, copy, exp_avg, exp_avg_sq))
        for gradient, part, first, second in zip(*pieces, strict=True):
            Window(
                gradient=gradient,
                weight=None,
                copy=part,
                exp_avg=first,
                exp_avg_sq=second,
                step=step,
                group=adam.param_groups[0],
            ).adam(gradient)
    assert torch.equal(copy, whole)
    assert torch.equal(exp_avg_sq, adam.state[whole]["exp_avg_sq"])


def test_child_processes_do_not_have_it() -> None:
    """Else each page that Adam changes would be there twice as long as a process that loads data lives."""
    kept = in_ram(torch.empty(1 << 20, device="meta"))
    assert "dc" in mapping_flags(kept)
    assert "dc" not in mapping_flags(torch.zeros(1 << 20))
    assert kept.shape == (1 << 20,) and not kept.any()
    assert in_ram(torch.empty(0, 4)).shape == (0, 4)


def mapping_flags(tensor: torch.Tensor) -> list[str]:
    """Of the kernel's mapping in which a tensor lies: `VmFlags` of proc_pid_smaps(5)."""
    address, inside = tensor.data_ptr(), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if first == "VmFlags:" and inside:
            return rest.split()
        if "-" in first and not first.endswith(":"):
            start, end = (int(bound, 16) for bound in first.split("-"))
            inside = start <= address < end
    raise AssertionError("in no mapping")


def test_parts_keep_their_copies() -> None:
    """After a checkpoint is loaded the parts are made again, around the tensors that it was read into."""

    weight = torch.randn(8, dtype=torch.bfloat16)
    optimizer = SimpleNamespace(param_groups=[{"params": [weight, torch.randn(4)], "lr": 1e-3}])
    _, _, offloaded, _, copies = offloaded_adam._divide(optimizer, 1.0)
    optimizer.gpu_params_map_cpu_copy, optimizer.param_to_fp32_param = offloaded, copies
    _, _, _, _, again = offloaded_adam._divide(optimizer, 1.0)
    assert again[weight] is copies[weight] and torch.equal(copies[weight], weight.float())
