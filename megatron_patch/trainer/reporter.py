"""One rank speaks for all: the last, as only the last pipeline stage knows the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_patch.backend.hooks import Step
from megatron_patch.trainer.metrics import MetricsFile, step_record
from megatron_patch.trainer.progress import TrainingProgress
from megatron_patch.trainer.startup import Startup
from megatron_patch.trainer.streams import Streams


class Reporter:
    """Writes metrics.jsonl and shows progress on the last rank; silent on the others."""

    def __init__(self, streams: Streams, output_dir: Path, peak_tflops: float | None, startup: Startup) -> None:
        self._streams, self._output_dir, self._peak = streams, output_dir, peak_tflops
        self._startup: Startup | None = startup
        self.speaks = streams.rank == streams.world_size - 1
        self.started = False
        self.iteration = 0
        self._sizes: dict[str, int] = {}
        self._metrics: MetricsFile | None = None
        self._progress: TrainingProgress | None = None

    def say(self, line: str) -> None:
        """Show one line on the screen, if this rank speaks."""
        if not self.speaks:
            return
        if self._progress is not None:
            self._progress.say(line)
        else:
            print(line, file=self._streams.stdout, flush=True)

    def say_here(self, line: str) -> None:
        """Show one line on the screen, whichever rank this is: of each machine, one asks for it."""
        print(line, file=self._streams.stdout, flush=True)

    def built(self, part: str) -> None:
        """Note how long a part of the way to the first step took."""
        if self._startup is not None:
            self._startup.done(part)

    def train_start(self, args: Any, model: list[Any]) -> None:
        """Open the record, cut to what the loaded checkpoint knows."""
        self.started, self.iteration = True, args.iteration
        self.built("data")
        if not self.speaks:
            return
        self._sizes = {"seq_length": args.seq_length, "world_size": args.world_size}
        self._metrics = MetricsFile(self._output_dir / "metrics.jsonl", args.iteration)
        self._progress = TrainingProgress(
            self._streams.stdout,
            total=args.train_iters,
            done=args.iteration,
            interval=args.log_interval,
            unit="GPU" if args.device == "cuda" else "process",
            peak_tflops=self._peak,
            **self._sizes,
        )

    def step(self, step: Step) -> None:
        """Record and show one step."""
        self.iteration = step.iteration
        self._account_for_start()
        if self._metrics is not None and self._progress is not None:
            self._metrics.write(step_record(step, **self._sizes))
            self._progress.step(step)

    def _account_for_start(self) -> None:
        """At the first step, say where the time went until here."""
        startup, self._startup = self._startup, None
        if startup is not None and self.speaks:
            startup.done("first step")
            startup.write(self._output_dir)
            self.say(startup.line())

    def evaluated(self, iteration: int, split: str, loss: float | None, parts: dict[str, float]) -> None:
        """Record and show one evaluation."""
        if self._metrics is not None and loss is not None:
            record: dict[str, Any] = {"iteration": iteration, f"{split}_loss": loss}
            self._metrics.write(record | ({f"{split}_losses": parts} if parts else {}))
            self.say(f"iteration {iteration} | {split} loss {loss:.4f}")
            for name, of_part in parts.items():
                self.say(f"iteration {iteration} | {split} loss {of_part:.4f} on {name}")

    def close(self) -> None:
        """Put the record on the disk and free the terminal."""
        if self._progress is not None:
            self._progress.close()
        if self._metrics is not None:
            self._metrics.close()
