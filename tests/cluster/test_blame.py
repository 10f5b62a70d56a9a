"""Which machine is at fault: told by what its ranks ended with, however slow it is to say so.

Real supervisors over a real connection; a shell that ends with a status stands where torchrun would.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
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


@pytest.mark.parametrize("guilty", [0, 1])
def test_a_cause_is_waited_for(tmp_path: Path, guilty: int) -> None:
    """The machine that only lost a connection has ended seconds before the one that knows why."""
    commands = [LOST, LOST]
    commands[guilty] = SLOW + FAILED
    statuses, said = finish(start(tmp_path, *commands))
    assert statuses == [1, 1]
    assert all(f"node {guilty} (" in text and "its ranks ended with status 1" in text for text in said), said
    assert not any(f"node {1 - guilty} (" in text for text in said), said
    ended = read_end(tmp_path)
    assert ended is None or f"node {guilty} (" in ended.cause


def test_a_status_of_its_own_reaches_those_that_only_hear_of_it(tmp_path: Path) -> None:
    """Node 1 and node 2 have no connection: node 0 passes the reason on, and the status."""
    statuses, said = finish(start(tmp_path, LOST, LOST, f"{SLOW}exit {Status.HUNG}"))
    assert statuses == [Status.HUNG] * 3
    assert all("node 2 (" in text and f"its ranks ended with status {Status.HUNG}" in text for text in said), said


@pytest.mark.parametrize("commands", [(LOST, SLOW + LOST), (SLOW + LOST, LOST), ("exit 0", SLOW + LOST)])
def test_nobody_is_blamed_where_nobody_knows(tmp_path: Path, commands: tuple[str, str]) -> None:
    """All have lost each other, or one has finished: no machine is named, and none waits for ever."""
    statuses, said = finish(start(tmp_path, *commands))
    assert statuses == [1, 1] and all(str(NOBODY_KNOWS) in text and "node 0 (" not in text for text in said), said


def test_a_machine_that_is_gone_explains_a_lost_connection(tmp_path: Path) -> None:
    """Its launcher is killed with everything else: it says nothing, and its connection closes."""
    survivor, gone = start(tmp_path, LOST, "kill -9 $PPID")
    assert finish([survivor, gone])[0] == [1, -signal.SIGKILL]
    ended = read_end(tmp_path)
    assert ended is not None and "node 1 (host1) is gone: its connection closed without a word" in ended.cause


def test_a_machine_that_has_finished_waits_for_the_others(tmp_path: Path) -> None:
    """However long they take: node 0 does not say that all is done before all have."""
    marker = tmp_path / "done"
    first, second = start(tmp_path, "exit 0", f"{SLOW}touch {marker}; exit 0")
    assert first.wait(300) == 0 and marker.exists()
    assert finish([first, second])[0] == [0, 0]
