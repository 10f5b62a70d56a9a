"""Two machines train as one does, and lose each other: a pulled cable, a power cut. Minutes, so `slow`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .machines import Machine, Started, losses, place, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Job:
    """One command on both machines."""

    def __init__(self, pair: tuple[Machine, Machine], typed: list[str], tokenizer: Path) -> None:
        self.pair, self._typed, self._tokenizer = pair, typed, str(tokenizer)
        self.output = Path(typed[-1])

    def start(self) -> tuple[Started, Started]:
        address = self.pair[0].address
        first, second = (
            machine.start(self._typed, place(rank, address, MP_TOKENIZER_PATH=self._tokenizer))
            for rank, machine in enumerate(self.pair)
        )
        return first, second

    def start_until(self, iteration: int) -> tuple[Started, Started]:
        both = self.start()
        wait_for(lambda: len(losses(self.output)) >= iteration, 240, f"iteration {iteration}", *both)
        return both

    def finish(self) -> None:
        both = self.start()
        assert [one.wait(240) for one in both] == [0, 0], "\n".join(one.said() for one in both)
        assert "2 machines agree on plan, code and packages; they talk over eth0" in both[0].said()


@pytest.fixture
def job(pair: tuple[Machine, Machine], values: Callable[..., list[str]], world: Path, tmp_path: Path) -> Job:
    return Job(pair, values(tmp_path / "out"), world / "tokenizer")


def test_a_pulled_cable(job: Job, alone: list[float]) -> None:
    """Both say who is silent, and end; plugged in again, the run ends as it would have without."""
    first, second = job.pair
    both = job.start_until(7)
    first.unplug()
    assert [one.wait(240) for one in both] == [1, 1]
    sentence = "the machine hangs, or the network between them is cut"
    assert f"node 1 ({second.name}) has not been heard of by node 0 ({first.name}) for" in both[0].said()
    assert f"node 0 ({first.name}) has not been heard of by node 1 ({second.name}) for" in both[1].said()
    assert all(sentence in one.said() and "goes on from its newest checkpoint" in one.said() for one in both)
    assert sentence in (job.output / "logs" / "node_0.log").read_text()
    for machine in job.pair:
        subprocess.run(["ip", "-n", machine.name, "link", "set", "eth0", "up"], check=True)
    job.finish()
    assert losses(job.output) == alone


def test_a_power_cut(job: Job, alone: list[float]) -> None:
    """The second machine is gone at once; the first says so, and does not wait for the time-out of its collective."""
    second = job.pair[1]
    survivor, _ = job.start_until(7)
    second.kill_everything()
    assert survivor.wait(240) == 1
    assert f"node 1 ({second.name}) is gone: its connection closed without a word" in survivor.said()
    job.finish()
    assert losses(job.output) == alone


def test_ranks_that_fail_on_one_machine(job: Job) -> None:
    """The other machine hears of it from the launcher, not from a collective."""
    second = job.pair[1]
    both = job.start_until(7)
    listed = subprocess.run(["ip", "netns", "pids", second.name], capture_output=True, text=True, check=True)
    commands = {pid: _command_of(pid) for pid in listed.stdout.split()}
    ranks = [pid for pid, line in commands.items() if "pretrain_llama.py" in line and "torchrun" not in line]
    assert ranks
    for pid in ranks:
        os.kill(int(pid), 9)
    assert [one.wait(240) for one in both] == [1, 1]
    said = [one.said() for one in both]
    assert any(f"node 1 ({second.name}): its ranks ended with status 1" in text for text in said), "\n".join(said)


def _command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
