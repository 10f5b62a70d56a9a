"""What a person sees while the model trains: a live bar on a terminal, one line per interval in a file."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from megatron_patch.backend.hooks import Step
from megatron_patch.trainer.metrics import step_record

RECENT_STEPS = 20
"""How many steps the time left is estimated from."""


class TrainingProgress:
    """Shows steps on `stream`; knows by itself whether that is a terminal."""

    def __init__(
        self,
        stream: TextIO,
        *,
        total: int,
        done: int,
        interval: int,
        seq_length: int,
        world_size: int,
        unit: str,
        peak_tflops: float | None,
    ) -> None:
        """
        Args:
            total: iterations of the whole run.
            done: iterations of earlier runs.
            interval: iterations between two lines in a file.
            unit: what one rank runs on, for the rates.
            peak_tflops: of one device, for the MFU; None leaves it out.
        """
        self._stream, self._total, self._interval = stream, total, interval
        self._seq_length, self._world_size = seq_length, world_size
        self._unit, self._peak = unit, peak_tflops
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if stream.isatty():
            columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(file=stream))
            self._task = self._bar.add_task("train", total=total, completed=done, text="first step ...")
            self._bar.start()

    def step(self, step: Step) -> None:
        """Show one step."""
        self._recent.append(step.seconds)
        text = self._describe(step)
        if self._bar is not None:
            self._bar.update(self._task, completed=step.iteration, text=text)
        elif step.iteration % self._interval == 0 or step.iteration in (1, self._total):
            self.say(f"iteration {step.iteration:>{len(str(self._total))}}/{self._total} | {text}")

    def say(self, line: str) -> None:
        """Print one line above the bar, or in its place."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def _describe(self, step: Step) -> str:
        metrics = step_record(step, seq_length=self._seq_length, world_size=self._world_size)
        seconds_left = sum(self._recent) / len(self._recent) * (self._total - step.iteration)
        parts = [
            "loss ?" if step.loss is None else f"loss {step.loss:.4f}",
            *([] if step.z_loss is None else [f"z {step.z_loss:.2f}"]),
            "lr ?" if step.lr is None else f"lr {step.lr:.2e}",
            "SKIPPED (gradient overflow)" if step.skipped or step.grad_norm is None else f"norm {step.grad_norm:.2f}",
            f"{metrics['tokens_per_s_per_gpu']:,.0f} tokens/s/{self._unit}",
            f"{metrics['tflops_per_gpu']:.3g} TFLOP/s/{self._unit}",
        ]
        if self._peak is not None:
            parts.append(f"MFU {metrics['tflops_per_gpu'] / self._peak:.1%}")
        parts.append(f"{timedelta(seconds=round(seconds_left))} left")
        return " | ".join(parts)
