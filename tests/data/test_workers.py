"""Work on several cores: in order, and with a sentence where a worker is killed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from megatron_patch.data.workers import AHEAD, in_order


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_items_order(workers: int) -> None:
    def work(item: int) -> tuple[int, int]:
        time.sleep(0.01 * (item % 3))  # later ones are done first
        return item, os.getpid()

    results = list(in_order(work, iter(range(20)), workers))
    assert [item for item, _ in results] == list(range(20))
    assert len({process for _, process in results}) <= workers
    assert (os.getpid() in {process for _, process in results}) == (workers == 1)


def test_items_are_not_taken_far_ahead() -> None:
    taken = []

    def items() -> object:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(str, items(), 2)
    assert next(results) == "0"
    assert len(taken) <= 2 * AHEAD + 1
    results.close()


def test_what_the_work_raises_is_raised_here() -> None:
    def work(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        list(in_order(work, [2, 1, 0], 2))


def test_a_killed_worker_is_said() -> None:
    def work(item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(RuntimeError, match="a worker was killed"):
        list(in_order(work, range(10), 2))
