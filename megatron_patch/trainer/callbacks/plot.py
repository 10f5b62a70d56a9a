"""loss.svg in the run's folder, drawn from metrics.jsonl when the run ends, however it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megatron_patch.charts.lines import Point, Series, line_chart, smooth
from megatron_patch.common.files import write_text
from megatron_patch.common.messages import localized, named
from megatron_patch.runs.folder import LOSS_PLOT, METRICS
from megatron_patch.trainer.callbacks.base import Callback, End, Rank
from megatron_patch.trainer.metrics import read_records


def make(rank: Rank) -> Callback | None:
    """On the rank that speaks."""
    return LossPlot(rank) if rank.speaks else None


class LossPlot(Callback):
    """Before ended.json: who waits for that finds the plot."""

    priority = -15

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def end(self, end: End) -> None:
        """A plot that cannot be written does not make a run fail that is trained and saved."""
        folder = self._rank.output_dir
        drawn = draw(read_records(folder / METRICS, end.iteration))
        try:
            if drawn:
                write_text(folder / LOSS_PLOT, drawn)
        except OSError as error:
            self._rank.screen.say_here(localized("file-not-written", path=LOSS_PLOT, error=error))


def draw(records: Sequence[dict[str, Any]]) -> str:
    """The losses of metrics.jsonl as SVG; empty where there is none. NaN and inf are left out."""
    training = _points(records, "loss")
    validation = _points(records, "validation_loss")
    half = len(training) // 50
    words = {name: named(name).localized() for name in ("training", "validation", "loss", "iteration")}
    series = [
        Series(label=words["training"], points=training, kind="faint" if half else "line", legend=not half),
        Series(label=words["training"], points=smooth(training, half) if half else []),
        Series(label=words["validation"], points=validation, color=1, kind="dots" if len(validation) < 40 else "line"),
    ]
    return line_chart(series, title=words["loss"], x_label=words["iteration"], standalone=True)


def _points(records: Sequence[dict[str, Any]], key: str) -> list[Point]:
    return [(record["iteration"], record[key]) for record in records if record.get(key) is not None]
