"""When a loss or a gradient norm is a spike: NaN, inf, or far above the steps before it."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from megatron_patch.common.messages import Message, named

LEAST = 8
"""Steps that have to be known before one is compared with them."""
SIGMA = 1.4826
"""Times the median absolute deviation is the standard deviation, where values are normally distributed."""
FLOORS = {"loss": 0.02, "gradient norm": 0.2}
"""Smallest deviation that is believed, as a share of the median: a flat stretch makes no spike of a small bump."""


class SpikeRule:
    """Compares with the median of the last steps that were taken: `value > median + factor x deviation`.

    The deviation is SIGMA x the median absolute deviation from the median, at least FLOORS x the median. Steps that
    were refused do not count, so that the second of two spikes is one too. NaN and inf are spikes at any time.
    """

    def __init__(self, *, factor: float, window: int) -> None:
        """
        Args:
            factor: deviations above the median.
            window: steps that are compared with.
        """
        self.factor = factor
        self._before = {name: deque[float](maxlen=window) for name in FLOORS}

    def take_over(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Know the steps of metrics.jsonl, oldest first: a resumed run decides as if it had never stopped.

        Returns:
            How many steps at the end of them were refused in a row.
        """
        refused = 0
        for record in records:
            if record.get("skipped") is True:
                refused = refused + 1 if record.get("refusal") else refused
            elif _is_number(record.get("loss")) and _is_number(record.get("grad_norm")):
                self.add(record["loss"], record["grad_norm"])
                refused = 0
        return refused

    def add(self, loss: float, norm: float) -> None:
        """A step that was taken."""
        for name, value in zip(FLOORS, (loss, norm), strict=True):
            self._before[name].append(value)

    def judge(self, loss: float | None, norm: float) -> Message | None:
        """Why a step is a spike; None if it is not one."""
        for name, value in zip(FLOORS, (loss, norm), strict=True):
            if value is None:
                continue
            if not math.isfinite(value):
                return Message("spike-not-finite", what=named(name))
            limit = self._limit(name)
            if limit is not None and value > limit[0]:
                return Message("spike-above", what=named(name), value=value, limit=limit[0], **limit[1])
        return None

    def _limit(self, name: str) -> tuple[float, dict[str, float]] | None:
        before = self._before[name]
        if len(before) < LEAST:
            return None
        median = statistics.median(before)
        deviation = SIGMA * statistics.median(abs(value - median) for value in before)
        deviation = max(deviation, FLOORS[name] * abs(median))
        values = {"median": median, "factor": self.factor, "deviation": deviation, "steps": len(before)}
        return median + self.factor * deviation, values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
