"""torchrun under watch: signals reach the ranks, and a machine that goes takes the run down with a sentence.

Without it, a rank whose peer is gone waits in a collective for MP_DISTRIBUTED_TIMEOUT_MINUTES and then says something
about gloo or NCCL. Here the launchers of all machines keep the connections of the rendezvous, send each other a word
every few seconds, and end the run when one closes, falls silent or reports a failure.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_patch.common import run_status
from megatron_patch.common.machine import children_of
from megatron_patch.launch.cluster.connection import LinkError
from megatron_patch.launch.cluster.rendezvous import Peer, RendezvousError, interface, meet
from megatron_patch.launch.command import Command
from megatron_patch.launch.plan import Plan

ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals on which the ranks finish their step, save and end: a scheduler's, a person's, Slurm's early warning."""
LAST_WORDS = 3.0
"""Seconds in which a peer's end may explain why the ranks here failed."""
PATIENCE = 20.0
"""Seconds that torchrun gets to notice that its ranks were killed."""


def start_node(
    plan: Plan, command: Command, environ: Mapping[str, str], record: Callable[[Plan, Command, Mapping[str, str]], int]
) -> int:
    """This machine's part of a run: meet the others, then torchrun.

    Args:
        record: writes plan.json; called on node 0, once all machines agree.
    Returns:
        0, or 1 after a failure here or elsewhere.
    """
    assert plan.cluster is not None
    try:
        peers = meet(plan) if plan.layout.nodes > 1 else ()
    except RendezvousError as error:
        print(f"{error}\nnothing was started", file=sys.stderr, flush=True)
        return 1
    if plan.cluster.node_rank == 0:
        record(plan, command, environ)
    ours = command.environment(environ) | {run_status.INHERITED: "held on node 0"}
    name = interface(peers)
    if name and "GLOO_SOCKET_IFNAME" not in ours:  # gloo would take the address of this machine's name, often 127.0.1.1
        ours["GLOO_SOCKET_IFNAME"] = name
    if peers:
        print(f"{plan.layout.nodes} machines agree on plan, code and packages; they talk over {name}", flush=True)
    log = Path(plan.output) / "logs" / f"node_{plan.cluster.node_rank}.log"
    silence = float(plan.variables.node_timeout_seconds)
    return Supervisor(node=plan.cluster.node_rank, peers=peers, silence=silence, log=log).run(command.argv, ours)


class Supervisor:
    """One machine's torchrun, and what its launcher knows of the others."""

    def __init__(self, *, node: int, peers: Sequence[Peer], silence: float, log: Path) -> None:
        """
        Args:
            node: of this machine.
            peers: on node 0 all others, elsewhere node 0.
            silence: seconds without a word after which a machine counts as gone.
            log: file that repeats what is said.
        """
        self._me, self._node = f"node {node} ({socket.gethostname()})", node
        self._others = Others(peers, me=self._me, silence=silence)
        self._silence, self._log = silence, log
        self._asked: int | None = None
        self._ranks_started = False

    def run(self, argv: Sequence[str], environ: Mapping[str, str]) -> int:
        """Start torchrun and stay until it and, on node 0, everybody else has ended.

        Returns:
            0, or 1 after a failure here or elsewhere.
        """
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited: Slurm sends it to every process of a step
        with subprocess.Popen(list(argv), env=dict(environ)) as child, self._signals():
            told, reason = False, None
            while child.poll() is None and reason is None:
                self._ranks_started = self._ranks_started or bool(children_of(child.pid))
                if self._asked is not None and not told:
                    self._ask_ranks(child)
                    told = True
                reason = self._others.trouble(0.3)
            if reason is not None:
                self._say(reason)
                self._kill(child)
                return self._end(1, reason)
            return self._after(child)

    def _after(self, child: subprocess.Popen[bytes]) -> int:
        """torchrun has ended by itself."""
        asked = self._asked is not None and child.returncode == 128 + self._asked  # torchrun heard it too, and saved
        if child.returncode and not asked:
            reason = self._explanation()
            self._say(reason or f"{self._me}: its ranks ended with status {child.returncode}, see above")
            return self._end(child.returncode, reason)
        self._others.tell({"ended": 0})
        deadline = time.monotonic() + self._silence
        while self._node == 0 and not self._others.all_ended and time.monotonic() < deadline:
            reason = self._others.trouble(0.3)
            if reason is not None:
                self._say(reason)
                return self._end(1, reason)
        return self._end(0, None)

    def _end(self, status: int, reason: str | None) -> int:
        if status:
            self._others.tell({"ended": status, "reason": reason})
            self._say(
                "started again with the same command on every machine, the run goes on from its newest checkpoint"
            )
        self._others.close()
        return 1 if status else 0

    def _explanation(self) -> str | None:
        """A peer's failure, if it shows soon after ours: then ours is only its echo."""
        deadline = time.monotonic() + LAST_WORDS
        while self._others and time.monotonic() < deadline:
            reason = self._others.trouble(0.3)
            if reason is not None:
                return reason
        return None

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, frame: object) -> None:
            self._asked = number

        before = {number: signal.signal(number, note) for number in ASKS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask_ranks(self, child: subprocess.Popen[bytes]) -> None:
        """Have the ranks save and end: they are told directly, as torchrun would kill them after 30 seconds."""
        name = signal.Signals(self._asked or 0).name
        ranks = children_of(child.pid)
        if not ranks and self._ranks_started:
            return  # they have ended, and torchrun is about to
        if not ranks:
            self._say(f"{self._me}: {name} before the ranks were started")
            child.terminate()
            return
        self._say(f"{self._me}: {name}: the ranks finish their step, save, and end")
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGTERM)

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        """End ranks that wait for somebody who is gone: they would not hear a gentler signal."""
        for rank in children_of(child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


class _Watched:
    """A peer, and when it was last heard of."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.heard = time.monotonic()
        self.ended: int | None = None


class Others:
    """Those that this machine keeps a connection with: on node 0 all others, elsewhere node 0."""

    def __init__(self, peers: Sequence[Peer], *, me: str, silence: float) -> None:
        """
        Args:
            me: this machine, for messages.
            silence: seconds without a word after which a machine counts as gone.
        """
        self._watched = [_Watched(peer) for peer in peers]
        self._me, self._silence = me, silence
        self._next_beat = 0.0

    def __bool__(self) -> bool:
        return bool(self._watched)

    @property
    def all_ended(self) -> bool:
        """Whether every one has said that its ranks ended."""
        return all(watched.ended is not None for watched in self._watched)

    def tell(self, message: dict[str, Any]) -> None:
        """Send all of them a message; one that is gone is noticed by `trouble`."""
        for watched in self._watched:
            if not watched.peer.link.closed:
                watched.peer.link.send(message)

    def trouble(self, seconds: float) -> str | None:
        """Hear what they say for up to `seconds`; a sentence if one of them is lost or has failed."""
        self._beat()
        open_links = [watched.peer.link for watched in self._watched if not watched.peer.link.closed]
        if not open_links:
            time.sleep(seconds)
        else:
            select.select(open_links, [], [], seconds)
        for watched in self._watched:
            reason = self._hear(watched)
            if reason is not None:
                return reason
        return None

    def close(self) -> None:
        """Close the connections."""
        for watched in self._watched:
            watched.peer.link.close()

    def _beat(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + min(5.0, self._silence / 4)
            self.tell({"beat": True})

    def _hear(self, watched: _Watched) -> str | None:
        peer = watched.peer
        if watched.ended is not None:
            return None
        try:
            while (message := peer.link.poll()) is not None:
                watched.heard = time.monotonic()
                if "ended" in message:
                    watched.ended = int(message["ended"])
                    if watched.ended:
                        return str(message.get("reason") or f"{peer}: its ranks ended with status {watched.ended}")
                    return None
        except LinkError as error:
            return f"{peer}: {error}"
        if peer.link.closed:
            return f"{peer} is gone: its connection closed without a word; it was killed, or the machine is down"
        silent = time.monotonic() - watched.heard
        if silent > self._silence:
            return (
                f"{peer} has not been heard of by {self._me} for {silent:.0f} s: "
                "the machine hangs, or the network between them is cut"
            )
        return None
