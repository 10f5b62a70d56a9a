"""Which machine is at fault: told by what its ranks ended with, however slow it is to say so.

Real supervisors over a real connection; a shell that ends with a status stands where torchrun would.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from megatron_patch.launch.cluster.supervise import NOBODY_KNOWS
from megatron_patch.runs.recovery import Status
from megatron_patch.runs.status import read_end

NODE = """
import os, socket, sys
from pathlib import Path
from megatron_patch.launch.cluster.connection import Connection
from megatron_patch.launch.cluster.rendezvous import Peer
from megatron_patch.launch.cluster.supervise import Supervisor
node, count, output, command, *sockets = sys.argv[1:]
others = [number for number in range(int(count)) if number != int(node)] if node == "0" else [0]
connections = [Connection(socket.socket(fileno=int(fd))) for fd in sockets]
peers = [Peer(node=n, host=f"host{n}", connection=one) for n, one in zip(others, connections)]
supervisor = Supervisor(node=int(node), peers=peers, silence=300.0, output=Path(output), lock=None)
sys.exit(supervisor.run(["sh", "-c", command], os.environ))
"""
SLOW = "sleep 4; "
LOST, FAILED = f"exit {Status.LOST}", f"exit {Status.FAILED}"


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def start(output: Path, *commands: str) -> list[subprocess.Popen[str]]:
    """A supervisor for each command, node 0 connected with every other."""
    pairs = [connected() for _ in commands[1:]]
    ends = [[near for near, _ in pairs], *([far] for _, far in pairs)]
    started = []
    for node, (command, sockets) in enumerate(zip(commands, ends, strict=True)):
        descriptors = [one.fileno() for one in sockets]
        words = [sys.executable, "-c", NODE, str(node), str(len(commands)), str(output), command]
        started.append(
            subprocess.Popen(
                [*words, *map(str, descriptors)],
                pass_fds=descriptors,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"MP_LANG": "en"},
            )
        )
    for pair in pairs:
        for one in pair:
            one.close()
    return started


def finish(started: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    said = [one.communicate(timeout=300)[1] for one in started]
    return [one.returncode for one in started], said


CASES = {
    "node 0 knows": (SLOW + FAILED, LOST),
    "node 1 knows": (LOST, SLOW + FAILED),
    "node 2 knows": (LOST, LOST, f"{SLOW}exit {Status.HUNG}"),
    "node 1 is slow": (LOST, SLOW + LOST),
    "node 0 is slow": (SLOW + LOST, LOST),
    "node 0 has finished": ("exit 0", SLOW + LOST),
    "both finish": ("exit 0", f'{SLOW}touch "$DONE"; exit 0'),
}
"""What stands for torchrun on each machine."""


@dataclass(kw_only=True)
class Finished:
    """What the supervisors of a case did."""

    output: Path
    statuses: list[int]
    said: list[str]
    done_before: bool
    """Whether node 1 of "both finish" was done when node 0 ended."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    """All cases at the same time, as each of them sleeps."""
    folder = tmp_path_factory.mktemp("blame")
    marker = folder / "done"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DONE", str(marker))
        started = {name: start(folder / name, *commands) for name, commands in CASES.items()}
    started["both finish"][0].wait(300)
    done = marker.exists()
    found = {}
    for name, supervisors in started.items():
        statuses, said = finish(supervisors)
        found[name] = Finished(output=folder / name, statuses=statuses, said=said, done_before=done)
    return found


@pytest.mark.parametrize("guilty", [0, 1])
def test_a_cause_is_waited_for(finished: dict[str, Finished], guilty: int) -> None:
    """The machine that only lost a connection has ended seconds before the one that knows why."""
    found = finished[f"node {guilty} knows"]
    assert found.statuses == [1, 1]
    assert all(f"node {guilty} (" in text and "its ranks ended with status 1" in text for text in found.said), found
    assert not any(f"node {1 - guilty} (" in text for text in found.said), found
    ended = read_end(found.output)
    assert ended is None or f"node {guilty} (" in ended.cause


def test_a_status_of_its_own_reaches_those_that_only_hear_of_it(finished: dict[str, Finished]) -> None:
    """Node 1 and node 2 have no connection: node 0 passes the reason on, and the status."""
    found = finished["node 2 knows"]
    assert found.statuses == [Status.HUNG] * 3
    words = f"its ranks ended with status {Status.HUNG}"
    assert all("node 2 (" in text and words in text for text in found.said), found


@pytest.mark.parametrize("name", ["node 1 is slow", "node 0 is slow", "node 0 has finished"])
def test_nobody_is_blamed_where_nobody_knows(finished: dict[str, Finished], name: str) -> None:
    """All have lost each other, or one has finished: no machine is named, and none waits for ever."""
    found = finished[name]
    assert found.statuses == [1, 1]
    assert all(str(NOBODY_KNOWS) in text and "node 0 (" not in text for text in found.said), found


def test_a_machine_that_has_finished_waits_for_the_others(finished: dict[str, Finished]) -> None:
    """However long they take: node 0 does not say that all is done before all have."""
    assert finished["both finish"].statuses == [0, 0] and finished["both finish"].done_before


def test_a_machine_that_is_gone_explains_a_lost_connection(tmp_path: Path) -> None:
    """Its launcher is killed with everything else: it says nothing, and its connection closes."""
    survivor, gone = start(tmp_path, LOST, "kill -9 $PPID")
    assert finish([survivor, gone])[0] == [1, -signal.SIGKILL]
    ended = read_end(tmp_path)
    assert ended is not None and "node 1 (host1) is gone: its connection closed without a word" in ended.cause
