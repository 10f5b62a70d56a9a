"""How many threads a rank may start."""

from __future__ import annotations

import os


def own_cores() -> int:
    """This rank's share of the machine's cores; 0 where there are more ranks than cores."""
    return len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
