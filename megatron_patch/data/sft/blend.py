"""Several datasets by weight: which sample comes from which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def interleave(weights: Sequence[float], count: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
    """Which dataset each of `count` rows comes from, and which of its rows, counted from 0 without end.

    The j-th row of a dataset of share w is due at (j + 1/2) / w: after any number of rows, each dataset has had its
    share of them to within one row.
    """
    shares = np.array(weights, dtype=np.float64) / sum(weights)
    due = [(np.arange(int(np.ceil(count * share)) + 2) + 0.5) / share for share in shares]
    which = np.concatenate([np.full(len(times), number, dtype=np.int16) for number, times in enumerate(due)])
    row = np.concatenate([np.arange(len(times), dtype=np.int64) for times in due])
    order = np.argsort(np.concatenate(due), kind="stable")[:count]
    return which[order], row[order]
