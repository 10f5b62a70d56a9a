"""Two machines train as one does, and lose each other: a pulled cable, a power cut. Minutes, so `slow`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.runs.status import read_end

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
    ranks = _ranks(second)
    assert ranks
    for pid in ranks:
        os.kill(pid, 9)
    assert [one.wait(240) for one in both] == [1, 1]
    said = [one.said() for one in both]
    assert all(f"node 1 ({second.name}): its ranks ended with status 1" in text for text in said), "\n".join(said)
    assert not any(f"node 0 ({job.pair[0].name})" in text for text in said), "\n".join(said)


def test_machines_that_have_ipv6_alone(job: Job) -> None:
    """Gloo is told the interface; by this machine's name it would take 127.0.1.1."""
    for number, machine in enumerate(job.pair, 1):
        subprocess.run(["ip", "-n", machine.name, "addr", "flush", "dev", "eth0"], check=True)
        address = ["-6", "addr", "add", f"fd00::{number}/64", "dev", "eth0", "nodad"]
        subprocess.run(["ip", "-n", machine.name, *address], check=True)
    job.pair[0].address = "fd00::1"
    both = job.start_until(2)
    assert "they talk over eth0" in both[0].said()


def test_a_signal_before_training(job: Job) -> None:
    """What is not there yet is not saved, and ended.json says how it ended all the same."""
    both = job.start()
    wait_for(lambda: "machines agree" in both[0].said(), 60, "they meet", *both)
    os.kill(_launcher(job.pair[0]), signal.SIGTERM)
    assert [one.wait(60) for one in both] == [143, 143]
    ended = read_end(job.output)
    assert ended is not None
    assert ended.how == "stopped"


def test_a_signal_to_one_machine_ends_both(job: Job) -> None:
    """A closed terminal on node 1, or an evicted pod: the ranks of both save, and no status says that all is done."""
    both = job.start_until(3)
    os.kill(_launcher(job.pair[1]), signal.SIGHUP)
    assert [one.wait(240) for one in both] == [128 + signal.SIGHUP] * 2, "\n".join(one.said() for one in both)
    assert f"node 0 ({job.pair[0].name}): SIGHUP there: the ranks finish their step" in both[0].said()
    assert (job.output / "checkpoints" / f"iter_{len(losses(job.output)):07d}").is_dir()
    assert not any(_processes(machine) for machine in job.pair)


def test_a_second_signal_ends_a_run_that_hangs(job: Job) -> None:
    """A rank that is stopped keeps all from saving; the same signal again ends both machines at once."""
    both = job.start_until(3)
    for pid in _ranks(job.pair[1]):
        os.kill(pid, signal.SIGSTOP)
    os.kill(_launcher(job.pair[0]), signal.SIGTERM)
    wait_for(lambda: "SIGTERM there" in both[1].said(), 240, "the other machine hears of it", *both)
    assert [one.process.poll() for one in both] == [None, None]
    os.kill(_launcher(job.pair[0]), signal.SIGTERM)
    assert [one.wait(240) for one in both] == [143, 143]
    assert not any(_processes(machine) for machine in job.pair)


def test_a_launcher_that_is_killed_leaves_no_ranks(job: Job) -> None:
    """The other machine's words are the first, and no rank that was killed for it is blamed on memory."""
    both = job.start_until(3)
    os.kill(_launcher(job.pair[0]), signal.SIGKILL)
    assert both[1].wait(240) == 1
    assert f"node 0 ({job.pair[0].name}) is gone" in both[1].said()
    assert "when memory runs out" not in both[1].said()
    wait_for(lambda: not any(_processes(machine) for machine in job.pair), 240, "no process is left", *both)


def _processes(machine: Machine) -> dict[int, str]:
    listed = subprocess.run(["ip", "netns", "pids", machine.name], capture_output=True, text=True, check=True)
    return {int(pid): _command_of(pid) for pid in listed.stdout.split()}


def _launcher(machine: Machine) -> int:
    return next(pid for pid, line in _processes(machine).items() if " -m megatron_patch.launch " in line)


def _ranks(machine: Machine) -> list[int]:
    lines = _processes(machine).items()
    return [pid for pid, line in lines if "pretrain_llama.py" in line and "torchrun" not in line]


def _command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
