"""What a person sees while the model trains: a live line on a terminal, one line per interval in a file."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import Any

from megatron_patch.backend.hooks import Step
from megatron_patch.common.hardware import peak_tflops
from megatron_patch.common.messages import Message, localized, named
from megatron_patch.common.progress import ALWAYS, LinePart, LiveLine, is_live
from megatron_patch.trainer.callbacks.base import Callback, Rank
from megatron_patch.trainer.metrics import step_record

RECENT_STEPS = 20
"""How many steps the time left is estimated from."""


def make(rank: Rank) -> Callback | None:
    """On the rank that speaks."""
    return Progress(rank, peak_tflops(rank.device)) if rank.speaks else None


class Progress(Callback):
    """Shows steps and evaluations; knows by itself whether there is a terminal."""

    priority = 20

    def __init__(self, rank: Rank, peak: float | None) -> None:
        """
        Args:
            peak: TFLOP/s of one device, for the MFU; None leaves it out.
        """
        self._rank, self._screen, self._peak = rank, rank.screen, peak
        self._total, self._interval, self._seq_length = 0, 1, 0
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)

    def train_start(self, args: Any, model: list[Any]) -> None:
        self._total, self._interval, self._seq_length = args.train_iters, args.log_interval, args.seq_length
        if is_live(self._screen.stream):
            self._screen.live = LiveLine(self._screen.stream, self._total)
            self._screen.live.start()
            self._screen.live.show(
                f"{args.iteration}/{self._total}",
                args.iteration,
                [LinePart(localized("run-first-step-waiting"), ALWAYS)],
            )

    def step(self, step: Step) -> None:
        self._recent.append(step.seconds)
        parts = self._parts(step)
        if self._screen.live is not None:
            self._screen.live.show(f"{step.iteration}/{self._total}", step.iteration, parts)
        elif step.iteration % self._interval == 0 or step.iteration in (1, self._total):
            words = " | ".join(part.text for part in parts)
            at = f"{step.iteration:>{len(str(self._total))}}"
            self._screen.say(localized("step-line", at=at, total=self._total, words=words))

    def evaluated(self, iteration: int, split: str, loss: float | None, parts: dict[str, float]) -> None:
        if loss is not None:
            self._screen.say(localized("step-evaluated", step=iteration, split=named(split), loss=loss))
            for name, of_part in parts.items():
                where = {"step": iteration, "split": named(split), "name": name}
                self._screen.say(localized("step-evaluated-part", **where, loss=of_part))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._screen.live is not None:
            self._screen.live.stop()
            self._screen.live = None

    def _parts(self, step: Step) -> list[LinePart]:
        """Of one step; in a narrow terminal TFLOP/s and norm go first."""
        metrics = step_record(step, seq_length=self._seq_length, world_size=self._rank.world_size)
        left = timedelta(seconds=round(sum(self._recent) / len(self._recent) * (self._total - step.iteration)))
        skipped = step.skipped or step.grad_norm is None
        mfu = None if self._peak is None else metrics["tflops_per_gpu"] / self._peak
        unit, why = named(self._rank.unit), "step-skipped-overflow" if step.refusal is None else "step-skipped-spike"
        loss = Message("step-loss-unknown") if step.loss is None else Message("step-loss", loss=step.loss)
        rate = Message("step-lr-unknown") if step.lr is None else Message("step-lr", rate=step.lr)
        parts = [
            (loss, 80),
            *([] if step.z_loss is None else [(Message("step-z", loss=step.z_loss), 30)]),
            (rate, 45),
            (Message(why), 90) if skipped else (Message("step-norm", norm=step.grad_norm), 20),
            (Message("step-tokens", rate=metrics["tokens_per_s_per_gpu"], unit=unit), 60),
            (Message("step-flops", rate=metrics["tflops_per_gpu"], unit=unit), 10),
            *([] if mfu is None else [(Message("step-mfu", share=mfu), 40)]),
            (Message("step-left", time=left), ALWAYS),
        ]
        return [LinePart(message.localized(), worth) for message, worth in parts]
