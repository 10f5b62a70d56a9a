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
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_patch.common.machine import children_of
from megatron_patch.common.messages import Message, as_json, localized, say
from megatron_patch.common.signals import handled_by
from megatron_patch.launch.cluster.connection import PeerError
from megatron_patch.launch.cluster.rendezvous import Peer, RendezvousError, interface, meet, received, this_node
from megatron_patch.launch.command import Command
from megatron_patch.launch.plan import Plan
from megatron_patch.runs import status as run_status
from megatron_patch.runs.folder import LOGS
from megatron_patch.runs.recovery import Status
from megatron_patch.runs.restart import ASKS, ASKS_RANKS, ENDS_RANKS

STOPPED = 128
"""A signal's number is added to it: the exit status of a run that was asked to end, and has not finished."""
LAST_WORDS = 180.0
"""Seconds in which another machine may say why ranks lost a connection: its torchrun alone gives ranks 30 to end. Who
is at fault does not depend on it: a machine whose ranks have a cause of their own says so at once."""
NOBODY_KNOWS = Message("nobody-knows")
LISTENS = 0.3
"""Seconds for which it hears the other machines before it looks at its own ranks again."""
PATIENCE = 20.0
"""Seconds that torchrun gets to kill its ranks."""


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
        with _ended_by_signals():
            peers = meet(plan, environ) if plan.layout.nodes > 1 else ()
    except RendezvousError as error:
        print(localized("meet-failed", reasons=error.messages), file=sys.stderr, flush=True)
        return Status.FAILED
    first = plan.cluster.node_rank == 0
    lock = _record(lambda: record(plan, command, environ), plan, peers) if first else None
    ours = command.environment(environ) | {run_status.INHERITED: "held on node 0"}
    name = interface(peers)
    if name and "GLOO_SOCKET_IFNAME" not in ours:  # gloo would take the address of this machine's name, often 127.0.1.1
        ours["GLOO_SOCKET_IFNAME"] = name
    if peers:
        say("meet-agreed", nodes=plan.layout.nodes, interface=name)
    silence, output = float(plan.variables.node_timeout_seconds), Path(plan.output)
    supervisor = Supervisor(node=plan.cluster.node_rank, peers=peers, silence=silence, output=output, lock=lock)
    status = supervisor.run(command.argv, ours)
    stopped = status > STOPPED and plan.config.env == "slurm"
    return 0 if stopped else status  # srun --kill-on-bad-exit would end nodes that are still saving


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """While the machines wait for each other: as process 1 of a container this one would not hear them else."""

    def end(number: int, frame: object) -> None:
        print(localized("meet-ended", signal=signal.Signals(number).name), file=sys.stderr)
        sys.exit(STOPPED + number)

    heard = [number for number in ASKS if signal.getsignal(number) != signal.SIG_IGN]  # nohup's stay ignored
    with handled_by(end, heard):
        yield


def _record(write: Callable[[], int], plan: Plan, peers: Sequence[Peer]) -> int:
    """Write plan.json; where that cannot be done, the other machines hear why before this one ends.

    Returns:
        The descriptor of the folder's lock.
    Raises:
        OSError, Occupied: as `write` does.
    """
    try:
        return write()
    except (OSError, run_status.Occupied) as error:
        reason = Message("node-cannot-write", me=this_node(0), folder=plan.output, error=error)
        for peer in peers:
            peer.connection.send({"ended": Status.REFUSED, "reason": as_json(reason)})
        raise


class Supervisor:
    """One machine's torchrun, and what its launcher knows of the others."""

    def __init__(self, *, node: int, peers: Sequence[Peer], silence: float, output: Path, lock: int | None) -> None:
        """
        Args:
            node: of this machine.
            peers: on node 0 all others, elsewhere node 0.
            silence: seconds without a word after which a machine counts as gone.
            output: the run's folder, where a log repeats what is said.
            lock: of that folder, on node 0.
        """
        self._me, self._node = this_node(node), node
        self._peers = Peers(peers, me=self._me, silence=silence)
        self._output, self._lock = output, lock
        self._heard: list[int] = []
        """Signals that this launcher was sent."""
        self._asked: int | None = None
        """The signal that ends the run, sent to this machine or to another."""
        self._passed_on = 0
        """How often torchrun has been told."""

    def run(self, argv: Sequence[str], environ: Mapping[str, str]) -> int:
        """Start torchrun and stay until it and, on node 0, everybody else has ended.

        Returns:
            As torchrun: 0, the status of a failure here or elsewhere, 128 + N where signal N ended it before its end.
        """
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited: Slurm sends it to every process of a step
        with subprocess.Popen(list(argv), env=dict(environ)) as child, self._signals():
            reason = None
            while child.poll() is None and reason is None:
                self._pass_on(child)
                reason = self._peers.trouble()
            if reason is not None:
                return self._failed_elsewhere(reason, child)
            return self._after(child)

    def _after(self, child: subprocess.Popen[bytes]) -> int:
        """torchrun has ended by itself."""
        stopped = self._asked is not None and (child.returncode > STOPPED or -child.returncode in (*ASKS, ASKS_RANKS))
        if child.returncode == Status.LOST:
            return self._lost(child)
        if child.returncode and not stopped:
            self._say(Message("node-ended-here", node=self._me, status=child.returncode))
            return self._end(child.returncode if child.returncode > 0 else Status.FAILED, None)
        if stopped:  # unless the ranks have written how they ended
            name = signal.Signals(self._asked or 0).name
            run_status.record_end(self._output, "stopped", Message("stopped-before-ranks", signal=name))
        self._peers.tell({"ended": 0})
        while self._node == 0 and not self._peers.all_ended:
            self._pass_on(child)
            reason = self._peers.trouble()
            if reason is not None or self._peers.only_lost:
                return self._failed_elsewhere(reason or NOBODY_KNOWS)
        self._peers.close()
        return 0 if self._asked is None or self._has_finished() else STOPPED + self._asked

    def _has_finished(self) -> bool:
        """Whether all iterations were done when the signal came."""
        ended = run_status.read_end(self._output)
        return ended is not None and ended.how == "finished"

    def _end(self, status: int, reason: Message | None) -> int:
        self._peers.tell({"ended": status, "reason": as_json(reason)})
        if status not in (Status.REFUSED, Status.SPIKE):
            self._say(Message("node-again"))
        self._peers.close()
        return status

    def _lost(self, child: subprocess.Popen[bytes]) -> int:
        """The ranks here have no cause of their own: wait for the machine that has one, whichever is slower.

        Node 0 hears everybody, and ends the waiting; the others wait for its word, its end or its silence.
        """
        self._peers.tell({"lost": True})
        reason, deadline = None, time.monotonic() + LAST_WORDS
        while reason is None and not self._peers.are_gone:
            if self._node == 0 and (self._peers.have_none_left or time.monotonic() > deadline):
                break
            self._pass_on(child)
            reason = self._peers.trouble()
        return self._failed_elsewhere(reason or NOBODY_KNOWS)

    def _failed_elsewhere(self, reason: Message, child: subprocess.Popen[bytes] | None = None) -> int:
        """
        Args:
            child: torchrun, if it still runs.
        """
        self._say(reason)
        run_status.record_end(self._output, "failed", reason)
        if child is not None:
            self._kill(child)
        return self._end(self._peers.status or Status.FAILED, reason)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, frame: object) -> None:
            self._heard.append(number)

        heard = [number for number in ASKS if number == signal.SIGUSR1 or signal.getsignal(number) != signal.SIG_IGN]
        with handled_by(note, heard):
            yield

    def _pass_on(self, child: subprocess.Popen[bytes]) -> None:
        """What this machine or another was sent goes to torchrun, which has the ranks save and end; at once when it is
        sent again. The other machines hear of it: their ranks end too."""
        times = max(len(self._heard), self._peers.times)
        if times == self._passed_on:
            return
        if self._asked is None:
            self._asked = self._heard[0] if self._heard else self._peers.asked
            name = signal.Signals(self._asked).name
            self._say(Message("node-asked" if self._heard else "node-asked-there", node=self._me, signal=name))
            if self._lock is not None:
                run_status.note_stopping(self._output, self._lock, name)
        self._peers.tell({"asked": self._asked, "times": times})
        for _ in range(times - self._passed_on):
            child.send_signal(ASKS_RANKS)
        self._passed_on = times

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        """End ranks that wait for somebody who is gone: they would not hear a gentler signal."""
        ranks = children_of(child.pid)
        child.send_signal(ENDS_RANKS)
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            for rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGKILL)

    def _say(self, message: Message) -> None:
        text = message.localized()
        print(text, file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            file = self._output / LOGS / f"node_{self._node}.log"
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


class _Watched:
    """A peer, and when it was last heard of."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.heard = time.monotonic()
        self.ended: int | None = None
        self.lost: float | None = None
        """When it said that its ranks lost a connection, and not why."""


class Peers:
    """Those that this machine keeps a connection with: on node 0 all others, elsewhere node 0."""

    def __init__(self, peers: Sequence[Peer], *, me: Message, silence: float) -> None:
        """
        Args:
            me: this machine, for messages.
            silence: seconds without a word after which a machine counts as gone.
        """
        self._watched = [_Watched(peer) for peer in peers]
        self._me, self._silence = me, silence
        self._next_beat = 0.0
        self.asked, self.times = 0, 0
        """The signal that one of them was sent, and how often."""
        self.status = 0
        """What one of them failed with."""

    @property
    def all_ended(self) -> bool:
        """Whether every one has said that its ranks ended."""
        return all(watched.ended is not None for watched in self._watched)

    @property
    def are_gone(self) -> bool:
        """Whether nobody will say anything any more."""
        return all(watched.peer.connection.closed for watched in self._watched)

    @property
    def only_lost(self) -> bool:
        """Whether ranks of one of them lost a connection, and no one has ranks left that could explain it."""
        return self.have_none_left and not self.all_ended

    @property
    def have_none_left(self) -> bool:
        """Whether the ranks of all of them have ended, well or without a cause."""
        return all(watched.ended is not None or watched.lost is not None for watched in self._watched)

    def tell(self, message: dict[str, Any]) -> None:
        """Send all of them a message; one that is gone is noticed by `trouble`."""
        for watched in self._watched:
            if not watched.peer.connection.closed:
                watched.peer.connection.send(message)

    def trouble(self) -> Message | None:
        """Hear what they say for up to LISTENS; a sentence if one of them is lost or has failed."""
        self._beat()
        still_open = [watched.peer.connection for watched in self._watched if not watched.peer.connection.closed]
        if not still_open:
            time.sleep(LISTENS)
        else:
            select.select(still_open, [], [], LISTENS)
        for watched in self._watched:
            reason = self._hear(watched)
            if reason is not None:
                return reason
        return None

    def close(self) -> None:
        """Close the connections."""
        for watched in self._watched:
            watched.peer.connection.close()

    def _beat(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + min(5.0, self._silence / 4)
            self.tell({"beat": True})

    def _hear(self, watched: _Watched) -> Message | None:
        peer, node = watched.peer, watched.peer.name
        if watched.ended is not None and (peer.node or peer.connection.closed):
            return None  # node 0 alone stays until all have ended
        try:
            while (message := peer.connection.poll()) is not None:
                watched.heard = time.monotonic()
                if "asked" in message:
                    self.asked, self.times = int(message["asked"]), max(self.times, int(message["times"]))
                if "lost" in message:
                    watched.lost = watched.heard
                if "ended" in message:
                    watched.ended = self.status = int(message["ended"])
                    if watched.ended:
                        reason = message.get("reason")
                        return received(reason) if reason else Message("node-ended", node=node, status=watched.ended)
        except PeerError as error:
            return Message("node-link", node=node, error=error)
        if peer.connection.closed:
            return None if watched.ended is not None else Message("node-gone", node=node)
        now = time.monotonic()
        if watched.lost is not None and now - watched.lost > LAST_WORDS:
            return NOBODY_KNOWS
        silent = now - watched.heard
        if silent > self._silence:
            return Message("node-silent", node=node, me=self._me, seconds=silent)
        return None
