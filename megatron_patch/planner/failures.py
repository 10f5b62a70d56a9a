"""What failures cost a long run, and how often it should save.

Source: Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps", equations 20 and 37.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SAVE_STALL = 0.9
"""Seconds that the slowest step of an asynchronous save takes over the median: 63 GB on two H200s."""
RESTART = 52.0
"""Seconds from the command to the next step of 8B on one H200, 42 of them reading 80 GB."""
NOTICED = 60.0
"""Seconds until a dead machine is given up (MP_NODE_TIMEOUT_SECONDS)."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Of a run with failures; seconds."""

    between_failures: float
    """Mean time of the whole run."""
    save_interval: float
    """Between two saves, that which loses least."""
    effective: float
    """Part of the time in which steps are made that count."""


def outlook(gpus: int, gpu_hours_between_failures: float) -> Outlook:
    """Expected effective time.

    Args:
        gpu_hours_between_failures: of one GPU; Llama 3's 405B saw 419 unexpected interruptions in 54 days of 16,384
            GPUs: about 50,000.
    """
    mean = gpu_hours_between_failures * 3600 / gpus
    interval = optimum_interval(SAVE_STALL, mean)
    lost = expected_time(1.0, interval, SAVE_STALL, RESTART + NOTICED, mean)
    return Outlook(between_failures=mean, save_interval=interval, effective=1 / lost)


def optimum_interval(stall: float, mean: float) -> float:
    """Daly's higher-order optimum of the compute time between two saves, in seconds."""
    if stall >= 2 * mean:
        return mean
    x = stall / (2 * mean)
    return math.sqrt(2 * stall * mean) * (1 + math.sqrt(x) / 3 + x / 9) - stall


def expected_time(work: float, interval: float, stall: float, restart: float, mean: float) -> float:
    """Wall-clock seconds for so many seconds of work, with exponentially distributed failures."""
    return mean * math.exp(restart / mean) * (math.exp((interval + stall) / mean) - 1) * work / interval
