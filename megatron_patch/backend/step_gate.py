"""Somebody looks at loss and gradient norm of a batch before the optimizer's step, and may refuse it on all ranks.

Stands for Megatron 0.19.2's `--check-for-nan-in-loss-and-grad`, which asks the device twice in each micro batch and
once for each bucket (3 ms a micro batch), and ends one rank while the others wait for it. The norm is computed for
clipping anyway, over all ranks, and no NaN or inf escapes it. fp16 skips such steps before it comes to the norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from megatron_patch.backend.patching import wrap
from megatron_patch.runs.heartbeat import HEART

LOSS_KEY = "lm loss"
"""Name of the loss in the dictionary that the loss function returns; TensorBoard shows it too."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of a batch before the weights change."""

    iteration: int
    """Of this step, counted from 1."""
    loss: float | None
    """Mean over the loss tokens of the global batch, as it is logged; None where the ranks do not ask each other."""
    norm: float
    """Of the gradient, before clipping."""
    micro_losses: tuple[float, ...]
    """Mean of each micro batch of this rank, where it has the last pipeline stage."""


Judge = Callable[[Seen], str | None]
"""Called on all ranks with the same iteration, loss and norm; a sentence refuses the step. It may raise."""


class _Gate:
    def __init__(self, judge: Judge, agree: bool) -> None:
        self.judge, self.agree = judge, agree
        self.iteration = 0
        self.losses: list[dict[str, torch.Tensor]] = []
        self.norm: Any = 0.0
        self.refusal: str | None = None

    def begin(self, iteration: int) -> None:
        self.iteration, self.losses, self.norm, self.refusal = iteration, [], 0.0, None

    def look(self) -> bool:
        """Whether the step is taken."""
        HEART.advance("the optimizer's step")
        norm = float(self.norm or 0.0)  # a tensor of one number, the number, or None without trained weights
        loss, norm = _of_all_ranks(self.losses, norm) if self.agree else (None, norm)
        suspicious = self.agree or not math.isfinite(norm)
        micro = tuple(_micro_loss(one) for one in self.losses if LOSS_KEY in one) if suspicious else ()
        self.refusal = self.judge(Seen(iteration=self.iteration, loss=loss, norm=norm, micro_losses=micro))
        return self.refusal is None


_gates: list[_Gate] = []


def judge_steps(judge: Judge, *, agree: bool) -> None:
    """Ask before every optimizer step. Call it once, before training.

    Args:
        agree: ranks tell each other loss and norm first: one small collective a step. Without it they know the norm,
            which is the same on all.
    """
    from megatron.training import training

    gate = _Gate(judge, agree)
    _gates[:] = [gate]

    @wrap(training, "train_step", why="0.19.2 steps before anybody has seen loss and norm together")
    def train_step(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        positions = list(args)
        forward_backward = positions[6]

        def remembering(*inner: Any, **named: Any) -> Any:
            gate.losses = forward_backward(*inner, **named)
            return gate.losses

        positions[6] = remembering
        gate.begin(kwargs["iteration"] + 1)
        _attach(gate, positions[3])
        return original(*positions, **kwargs)


def last_refusal() -> str | None:
    """Why the step that was just done was refused; None if it was taken."""
    return _gates[0].refusal if _gates else None


def _attach(gate: _Gate, optimizer: Any) -> None:
    """To this object: the optimizers that it chains are not asked."""
    if hasattr(optimizer, "_step_gate"):
        return
    optimizer._step_gate = gate
    for name in ("get_grad_norm", "clip_grad_norm"):
        _remember_norm(gate, optimizer, name)
    step = optimizer.step_with_ready_grads

    def step_with_ready_grads() -> bool:
        return bool(gate.look() and step())

    optimizer.step_with_ready_grads = step_with_ready_grads


def _remember_norm(gate: _Gate, optimizer: Any, name: str) -> None:
    original = getattr(optimizer, name)

    def remembering(*args: Any, **kwargs: Any) -> Any:
        gate.norm = original(*args, **kwargs)
        return gate.norm

    setattr(optimizer, name, remembering)


def _of_all_ranks(losses: list[dict[str, torch.Tensor]], norm: float) -> tuple[float | None, float]:
    """Loss as Megatron logs it, and norm: the same numbers on every rank, NaN if one rank has it."""
    loss = _mean_loss(losses)
    numbers = [-math.inf if loss is None else loss, norm]
    flags = [0.0 if math.isfinite(number) or number == -math.inf else 1.0 for number in numbers]
    sent = [0.0 if flag else number for number, flag in zip(numbers, flags, strict=True)]
    everybodys = torch.tensor([*sent, *flags], dtype=torch.float64, device="cuda")
    torch.distributed.all_reduce(everybodys, op=torch.distributed.ReduceOp.MAX)
    highest_loss, highest_norm, bad_loss, bad_norm = everybodys.tolist()
    total = math.nan if bad_loss else None if highest_loss == -math.inf else highest_loss
    return total, math.nan if bad_norm else highest_norm


def _mean_loss(losses: list[dict[str, torch.Tensor]]) -> float | None:
    """As `train_step` of 0.19.2 computes it, from the sums and numbers of tokens of this rank's micro batches."""
    from megatron.core import mpu

    if not mpu.is_pipeline_last_stage() or not losses:
        return None
    total = torch.vstack([one[LOSS_KEY].view(-1) for one in losses]).sum(dim=0)
    torch.distributed.all_reduce(total, group=mpu.get_data_parallel_group(with_context_parallel=True))
    return float(total[0] / total[1])


def _micro_loss(logged: dict[str, torch.Tensor]) -> float:
    total, number = logged[LOSS_KEY].tolist()
    return total / number if number else 0.0


def pass_over_batches() -> None:
    """Let `iterations_to_skip` read and drop a batch wherever data are read. Call it once, before training."""
    from megatron.training import training

    @wrap(training, "dummy_train_step", why="0.19.2 reads on pipeline stages without data, and broadcasts for nothing")
    def dummy_train_step(original: Callable[..., Any], data: Any) -> None:
        for iterator in data if isinstance(data, list) else [data]:
            for _ in range(training.get_num_microbatches() if iterator is not None else 0):
                next(iterator)
