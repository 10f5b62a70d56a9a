"""An optimizer in RAM; other RAM stands for the GPU. What streams and Transformer Engine's Adam do is in tests/gpu."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_patch.backend.gpu import offloaded_adam
from megatron_patch.backend.gpu.offloaded_adam import Window, in_ram, step_in_windows
from megatron_patch.backend.saving.optimizer_fixes import OFFLOADERS_OWN

RATES = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
DECAYS = (0.1, 0.0, 0.1)


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


class OnGpu(torch.Tensor):
    """A tensor that says so, as what is made of it."""

    is_cuda = True

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor).clone()


class GpuAdam(torch.optim.AdamW):
    """Takes gradients as they lie, as Transformer Engine's does, and counts the steps of a group."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__([{**group, "fused": False} for group in groups])

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for copy in group["params"]:
                gradient, copy.grad, copy.grad_dtype = copy.grad, None, None
                copy.grad = gradient.to(copy.dtype)
        super().step()
        self.zero_grad()

    def initialize_state(self, copy: torch.Tensor, _: bool) -> None:
        zeros = (torch.zeros_like(copy) for _ in range(2))
        self.state[copy] = {"step": torch.zeros(()), **dict(zip(("exp_avg", "exp_avg_sq"), zeros, strict=True))}


class Moment:
    """Of a stream: everything before it is done."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class Queue:
    """A stream whose work is done at once."""

    def wait_stream(self, other: object) -> None: ...

    def wait_event(self, moment: object) -> None: ...

    def record_event(self, moment: object = None) -> Moment:
        return Moment()


@pytest.fixture
def hybrid(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Megatron's class with our step, on a GPU that is RAM."""
    from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer

    for name, stand_in in (("Stream", Queue), ("Event", Moment), ("current_stream", Queue)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(offloaded_adam, "WINDOW", 96)
    monkeypatch.setattr(offloaded_adam, "_pinned", lambda: torch.empty(4 * 96, dtype=torch.uint8))
    before = dict(vars(HybridDeviceOptimizer))
    step_in_windows()
    yield HybridDeviceOptimizer
    for name, method in before.items():
        if vars(HybridDeviceOptimizer)[name] is not method:
            setattr(HybridDeviceOptimizer, name, method)


def optimizer_of(hybrid: Any, weights: list[torch.Tensor], fraction: float) -> Any:
    """As Megatron makes it, over shards."""
    decays = zip(weights, DECAYS[: len(weights)], strict=True)
    groups = [{"params": [weight], **RATES, "weight_decay": decay} for weight, decay in decays]
    return hybrid(
        groups,
        offload_fraction=fraction,
        cpu_optimizer_cls=torch.optim.AdamW,
        gpu_optimizer_cls=GpuAdam,
        param_update_in_fp32=True,
        bias_correction=True,
        fused=True,
        **RATES,
    )


def some_weights() -> list[torch.Tensor]:
    """bf16 weights of three sizes: less than a window, more, a whole number of them."""
    torch.manual_seed(1)
    return [torch.randn(size).bfloat16().as_subclass(OnGpu) for size in (50, 1000, 192)]


def train(optimizer: Any, weights: list[torch.Tensor], steps: range) -> None:
    """Gradients that depend on the step alone."""
    for step in steps:
        torch.manual_seed(100 + step)
        for weight in weights:
            weight.decoupled_grad = torch.randn(weight.shape).bfloat16()  # type: ignore[attr-defined]
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        optimizer.step()


@pytest.fixture(params=[False, True], ids=["weights", "quantized"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that take their new values window by window, and those that take them when all are there."""
    monkeypatch.setattr(offloaded_adam, "_quantized", lambda weight: request.param)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_whole_step(hybrid: Any, fraction: float) -> None:
    """The bits of AdamW over fp32 copies, rounded to bf16, whichever part steps where."""
    weights = some_weights()
    copies = [weight.as_subclass(torch.Tensor).float().requires_grad_() for weight in weights]
    optimizer = optimizer_of(hybrid, weights, fraction)
    adam = torch.optim.AdamW([{"params": [copy]} for copy in copies], fused=True, **RATES)
    adam.param_groups[1]["weight_decay"] = 0.0
    assert len(optimizer.cpu_copys_map_gpu_param) == (3 if fraction == 1.0 else 2)
    for step in range(4):
        train(optimizer, weights, range(step, step + 1))
        for copy, weight, group in zip(copies, weights, adam.param_groups, strict=True):
            copy.grad, group["lr"] = weight.decoupled_grad.float(), 1e-2 / (1 + step)  # type: ignore[attr-defined]
        adam.step()
    for copy, weight in zip(copies, weights, strict=True):
        inner = optimizer.param_to_inner_param[weight].as_subclass(torch.Tensor)
        assert torch.allclose(inner, copy, atol=1e-7)
        assert torch.equal(weight.as_subclass(torch.Tensor), inner.bfloat16())
        assert torch.allclose(optimizer.state[weight]["exp_avg"].as_subclass(torch.Tensor), adam.state[copy]["exp_avg"])
        assert optimizer.state[weight]["master_param"] is optimizer.param_to_inner_param[weight]


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_it_goes_on_in_the_tensors_that_are_read(hybrid: Any, fraction: float) -> None:
    """As Megatron does it: zeros, into which a checkpoint is read, then the groups. The same bits, and no copies."""
    whole = some_weights()
    uninterrupted = optimizer_of(hybrid, whole, fraction)
    train(uninterrupted, whole, range(2))
    saved = uninterrupted.state_dict()
    assert not [key for group in saved["param_groups"] for key in group if key in OFFLOADERS_OWN]
    kept = [{key: value.clone() for key, value in uninterrupted.state[weight].items()} for weight in whole]
    weights = [weight.detach().clone() for weight in whole]
    train(uninterrupted, whole, range(2, 4))

    optimizer = optimizer_of(hybrid, weights, fraction)
    optimizer.dummy_step()
    for weight, state in zip(weights, kept, strict=True):
        for key in ("exp_avg", "exp_avg_sq", "master_param"):
            optimizer.state[weight][key].copy_(state[key])
        optimizer.state[weight]["step"] = torch.tensor(2.0)
    before = [optimizer.state[weight]["exp_avg"].data_ptr() for weight in weights]
    groups = [{**group, "step": 2} for group in saved["param_groups"]]
    optimizer.load_state_dict({"state": optimizer.state_dict()["state"], "param_groups": groups})
    for group in optimizer.param_groups:  # saving/optimizer_fixes.py
        group.pop("step")
    assert [optimizer.state[weight]["exp_avg"].data_ptr() for weight in weights] == before
    train(optimizer, weights, range(2, 4))
    for weight, other in zip(weights, whole, strict=True):
        assert torch.equal(weight.as_subclass(torch.Tensor), other.as_subclass(torch.Tensor))


def test_whole_parameters_are_not_copied(hybrid: Any) -> None:
    """DistributedOptimizer is given one of the model's own parameters, and makes another of this rank's shards."""
    optimizer = optimizer_of(hybrid, [torch.nn.Parameter(torch.randn(8).bfloat16())], 1.0)
    assert not hasattr(optimizer, "cpu_optimizers") and optimizer.defaults["lr"] == RATES["lr"]


def test_parts_keep_their_copies() -> None:
    """After a checkpoint is loaded the parts are made again, around the tensors that it was read into."""

    weight = torch.randn(8, dtype=torch.bfloat16)
    optimizer = SimpleNamespace(param_groups=[{"params": [weight, torch.randn(4)], "lr": 1e-3}])
    _, _, offloaded, _, copies = offloaded_adam._divide(optimizer, 1.0)
    optimizer.gpu_params_map_cpu_copy, optimizer.param_to_fp32_param = offloaded, copies
    _, _, _, _, again = offloaded_adam._divide(optimizer, 1.0)
    assert again[weight] is copies[weight] and torch.equal(copies[weight], weight.float())
