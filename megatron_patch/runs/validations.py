"""What the validation losses of a run say: which checkpoint is the best, and whether it stopped early. best.json.

The state follows from the losses alone, so a resume that reads them again has the same. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.common.files import write_json
from megatron_patch.common.strict_json import read_json
from megatron_patch.runs.folder import CHECKPOINTS

BEST = "best.json"
"""In a run's folder: the best checkpoint, its loss, and how validation went."""


@dataclass(kw_only=True)
class Validations:
    """All validations so far."""

    patience: int | None = None
    """MP_EARLY_STOP_PATIENCE."""
    lowest: float = math.inf
    without: int = 0
    """Validations since the one with the lowest loss."""
    last: int = 0
    """Iteration of the newest validation."""
    best_iteration: int | None = None
    """Of the checkpoints at which there was a validation, the one with the lowest loss."""
    best_loss: float = math.inf

    def add(self, iteration: int, loss: float, *, saved: bool) -> None:
        """One more. A loss that is NaN is not an improvement.

        Args:
            saved: a checkpoint of this iteration is written.
        """
        better = loss < self.lowest
        self.lowest, self.without = (loss, 0) if better else (self.lowest, self.without + 1)
        self.last = iteration
        if saved and loss < self.best_loss:
            self.best_iteration, self.best_loss = iteration, loss

    @property
    def stops(self) -> bool:
        """As many validations in a row as MP_EARLY_STOP_PATIENCE says have not improved on the lowest loss."""
        return self.patience is not None and self.without >= self.patience

    def write(self, output: Path) -> None:
        """Write best.json."""
        best = None if self.best_iteration is None else f"{CHECKPOINTS}/iter_{self.best_iteration:07d}"
        content = {
            "checkpoint": best,
            "iteration": self.best_iteration,
            "validation_loss": _number(self.best_loss),
            "lowest_validation_loss": _number(self.lowest),
            "validations_without_improvement": self.without,
            "last_validation": self.last,
            "stopped_early": self.stops,
        }
        write_json(output / BEST, content)


def replay(records: Iterable[dict[str, Any]], *, patience: int | None, saves: int, last: int) -> Validations:
    """The state after the validations in metrics.jsonl.

    Args:
        saves: SAVE_INTERVAL.
        last: the run's last iteration, which is saved whatever the interval.
    """
    found = Validations(patience=patience)
    for record in records:
        if "validation_loss" in record:
            iteration, loss = record["iteration"], record["validation_loss"]
            found.add(iteration, math.nan if loss is None else loss, saved=iteration % saves == 0 or iteration == last)
    return found


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def read_best(output: Path) -> dict[str, Any]:
    """best.json; empty where there is none, or it is damaged: it serves people and later starts, not training."""
    try:
        found = read_json(output / BEST)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def stopped_early(output: Path, iteration: int | None, patience: int | None) -> bool:
    """Whether the run has ended at this iteration for want of improvement, and still would."""
    found = read_best(output)
    without = found.get("validations_without_improvement")
    ended = bool(found.get("stopped_early")) and found.get("last_validation") == iteration
    return ended and patience is not None and isinstance(without, int) and without >= patience
