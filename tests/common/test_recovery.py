"""The policy of restarts, and what is known of a start that failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.common.messages import Message
from megatron_patch.runs.recovery import Failure, Status, after_failure, read_events
from megatron_patch.runs.restart import Again, StepCounter, read_again, start_again
from megatron_patch.runs.status import INHERITED, is_mine, take


def failed(status: int = Status.FAILED, iteration: int = 5) -> Failure:
    return Failure(status=status, iteration=iteration, cause=Message("rank-killed", rank=1, signal="SIGKILL"))


def test_a_crash_is_tried_again_so_often() -> None:
    assert after_failure(failed(), [], most=0).again is False
    first = after_failure(failed(), [], most=2)
    assert first.again and str(first.words) == "restart 1 of 2: rank 1 was killed by SIGKILL"
    assert after_failure(failed(), [3], most=2).again
    last = after_failure(failed(), [2, 3], most=2)
    assert not last.again and "MP_MAX_RESTARTS is 2" in str(last.words)


def test_the_same_step_twice_gives_up() -> None:
    twice = after_failure(failed(), [5], most=9)
    assert not twice.again and str(twice.words) == "not started again: it failed after step 5 twice in a row"
    assert "before the first step twice" in str(after_failure(failed(iteration=-1), [-1], most=9).words)


@pytest.mark.parametrize("status", [Status.NOT_AGAIN, Status.SPIKE, Status.REFUSED])
def test_what_has_to_be_changed_first_is_not_tried_again(status: Status) -> None:
    assert not after_failure(failed(status), [], most=9).again


def test_a_rollback_is_not_counted() -> None:
    assert after_failure(failed(Status.ROLLED_BACK), [5, 5], most=0).again


def test_a_hang_is_a_crash() -> None:
    assert after_failure(failed(Status.HUNG), [], most=1).again


def test_steps_of_this_start(tmp_path: Path) -> None:
    """An old metrics.jsonl says nothing about a start that did not come to training."""
    assert StepCounter(tmp_path).steps_done() == -1
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 7}\n')
    progress = StepCounter(tmp_path)
    assert progress.steps_done() == -1
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 7}\n{"iteration": 8}\n{"itera')
    assert progress.steps_done() == 8
    (tmp_path / "metrics.jsonl").write_text("torn")
    assert progress.steps_done() == 0


def test_the_process_becomes_the_driver_and_keeps_the_lock(tmp_path: Path) -> None:
    """Nobody else can start in between; what failed is in the next one's environment."""
    child = (
        "import os, sys; from pathlib import Path; from megatron_patch.runs.restart import AGAIN, read_again;"
        "from megatron_patch.runs.status import is_mine, state_of;"
        "folder = Path(sys.argv[1]);"
        "again = read_again(os.environ[AGAIN]);"
        "print(is_mine(folder, os.environ), state_of(folder)[0], again.failed_at, again.added);"
        "print(os.environ.get('OMP_NUM_THREADS'), os.environ['HF_HUB_OFFLINE'])"
    )
    again = Again(
        command=(sys.executable, "-c", child, str(tmp_path)), most=3, failed_at=(2,), added=("OMP_NUM_THREADS",)
    )
    code = (
        "import sys; from pathlib import Path; from megatron_patch.runs.restart import *;"
        "from megatron_patch.common.messages import Message; from megatron_patch.runs.recovery import Failure;"
        "from megatron_patch.runs.status import take;"
        "folder = Path(sys.argv[1]); lock = take(folder);"
        "start_again(read_again(sys.argv[2]), Failure(status=1, iteration=5, cause=Message('ended-by-unknown'))"
        ", folder, lock)"
    )
    (variable,) = again.variable().values()
    words = [sys.executable, "-c", code, str(tmp_path), variable]
    ranks = os.environ | {"OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True, env=ranks)
    assert done.stdout == "True running (2, 5) ('OMP_NUM_THREADS',)\nNone 1\n"
    assert done.stderr == "restart 2 of 3: a signal\n"
    assert [(event.kind, event.iteration) for event in read_events(tmp_path)] == [("restart", 5)]


def test_without_a_command_nothing_is_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_again("") is None
    start_again(None, failed(), tmp_path, None)
    start_again(Again(command=("/no/such",), most=3, failed_at=(5,)), failed(), tmp_path, None)
    assert "twice in a row" in capsys.readouterr().err
    assert [event.kind for event in read_events(tmp_path)] == ["gave-up"]


def test_a_lock_is_mine_by_its_file_alone(tmp_path: Path) -> None:
    lock = take(tmp_path)
    assert is_mine(tmp_path, {INHERITED: str(lock)})
    assert not is_mine(tmp_path, {INHERITED: "held on node 0"}) and not is_mine(tmp_path, {})
    other = (tmp_path / "other").open("w")
    assert not is_mine(tmp_path, {INHERITED: str(other.fileno())})
