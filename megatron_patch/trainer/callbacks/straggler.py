"""A rank that computes slower than its peers is named: on the screen, in the log, in events.jsonl and the report.

Compared are the seconds of forward passes over WINDOW steps, which hold no waiting for data-parallel peers or other
pipeline stages; under TP a group waits within the pass, so all its ranks are named. Ranks of one pipeline stage are
compared with each other; where a stage is one rank, all ranks are.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from megatron_patch.backend.hooks import Step
from megatron_patch.common.messages import Message, localized
from megatron_patch.runs.recovery import Event, note_event
from megatron_patch.trainer.callbacks.base import Callback, Rank

WINDOW = 20
"""Steps."""
SHARE = 0.5
"""Slower than the median of its peers by this share."""
COSTS = 0.1
"""And it costs this share of the time of all steps, at least: what others do not wait for is not worth a word."""


def make(rank: Rank) -> Callback | None:
    """On every rank, where there are several."""
    return Straggler(rank) if rank.world_size > 1 else None


class Straggler(Callback):
    """Compares all ranks every WINDOW steps."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._steps, self._forward, self._whole = 0, 0.0, 0.0
        self._stages: list[int] = []
        self._named: set[int] = set()

    def train_start(self, args: Any, model: list[Any]) -> None:
        from megatron.core import mpu

        from megatron_patch.trainer.step import FORWARD

        FORWARD.on_gpu = args.device == "cuda"
        FORWARD.take()
        self._stages = [int(stage) for stage in _of_all_ranks(mpu.get_pipeline_model_parallel_rank())]

    def step(self, step: Step) -> None:
        from megatron_patch.trainer.step import FORWARD

        self._steps += 1
        if self._steps == 1:  # what is done once
            FORWARD.take()
            return
        self._forward += FORWARD.take()
        self._whole += step.seconds
        if self._steps <= WINDOW:
            return
        slow = find_stragglers(_of_all_ranks(self._forward), self._stages, self._whole)
        for rank, (mine, others) in slow.items():
            if rank not in self._named:
                self._say(rank, mine / WINDOW, others / WINDOW, step.iteration)
        for rank in self._named - slow.keys():
            self._rank.screen.say(localized("slow-no-more", rank=rank, step=step.iteration))
        self._named = set(slow)
        self._steps, self._forward, self._whole = 1, 0.0, 0.0

    def _say(self, rank: int, mine: float, others: float, iteration: int) -> None:
        steps = {"first": iteration - WINDOW + 1, "last": iteration}
        message = Message("slow-rank", rank=rank, mine=mine * 1e3, others=others * 1e3, **steps)
        self._rank.screen.say(message.localized())
        print(message, flush=True)
        if self._rank.rank == 0:
            note_event(self._rank.output_dir, Event.of("slow", message, iteration=iteration))


def find_stragglers(seconds: list[float], stages: list[int], whole: float) -> dict[int, tuple[float, float]]:
    """Which ranks are slower than their peers, with their seconds and the median of their peers'.

    Args:
        seconds: forward passes of each rank.
        stages: pipeline stage of each rank.
        whole: seconds of all steps.
    """
    found = {}
    for rank, mine in enumerate(seconds):
        peers = [number for number, stage in enumerate(stages) if stage == stages[rank] and number != rank]
        peers = peers or [number for number in range(len(seconds)) if number != rank]
        others = statistics.median(seconds[number] for number in peers)
        if mine > (1 + SHARE) * others and mine - others > COSTS * whole:
            found[rank] = (mine, others)
    return found


def _of_all_ranks(number: float) -> list[float]:
    mine = torch.tensor([number], dtype=torch.float64, device="cuda")
    everybodys = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(everybodys, mine)
    return [float(one) for one in everybodys]
