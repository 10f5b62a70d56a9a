"""metrics.jsonl: a JSON object per iteration, and one per evaluation; tests, plots and `watch` read it."""

from __future__ import annotations

from typing import Any

from megatron_patch.backend.hooks import Step
from megatron_patch.common.hardware import peak_tflops
from megatron_patch.runs.folder import METRICS
from megatron_patch.trainer.callbacks.base import Callback, Rank
from megatron_patch.trainer.metrics import MetricsFile, step_record


def make(rank: Rank) -> Callback | None:
    """On the rank that speaks."""
    return Metrics(rank) if rank.speaks else None


class Metrics(Callback):
    """Records every step and evaluation."""

    priority = 30

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._seq_length = 0
        self._file: MetricsFile | None = None

    def train_start(self, args: Any, model: list[Any]) -> None:
        """Open the file, cut to what the loaded checkpoint knows."""
        self._seq_length = args.seq_length
        self._file = MetricsFile(self._rank.output_dir / METRICS, args.iteration)

    def step(self, step: Step) -> None:
        rank = self._rank
        peak = peak_tflops(rank.device)
        self._write(step_record(step, seq_length=self._seq_length, world_size=rank.world_size, peak=peak))

    def evaluated(self, iteration: int, split: str, loss: float | None, parts: dict[str, float]) -> None:
        if loss is not None:
            record: dict[str, Any] = {"iteration": iteration, f"{split}_loss": loss}
            self._write(record | ({f"{split}_losses": parts} if parts else {}))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(record)
