"""Before several machines start: can they reach each other, and are they about to do the same?

Every machine's launcher meets the others at MASTER_ADDR:MASTER_PORT, before torch is imported anywhere. Node 0 compares
plan, code and packages, and has each look for a file that it wrote into OUTPUT_BASEPATH. The connections stay open
during the run: `supervise.py` notices through them who has gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, as_json, named, read_message, say
from megatron_patch.common.values import shown
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.cluster.connection import Connection, PeerError, interface_of, is_local, listen
from megatron_patch.launch.cluster.place import Cluster
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.environment import read_by_libraries
from megatron_patch.launch.plan import Plan, meant, values_of
from megatron_patch.launch.problems import NUMBERS

PROTOCOL = "megatron_patch rendezvous 1"
SHARED_SECONDS = 90.0
"""How long a file that node 0 wrote, or its folder, may take to show on another machine: network file systems remember
what a folder held, or that there was none, for a minute (NFS: acdirmax)."""
ANSWERS_SECONDS = 60.0
"""How long a launcher may take to answer, on a busy machine: who takes longer is something else."""
WORD_EVERY = 15.0
"""Seconds between two lines that say who is waited for."""


class RendezvousError(UserError):
    """The machines cannot start together; one sentence per reason."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another machine, as this one knows it."""

    node: int
    host: str
    connection: Connection

    @property
    def name(self) -> Message:
        """As messages call it."""
        return Message("node", node=self.node, host=self.host)


def meet(plan: Plan, environ: Mapping[str, str]) -> tuple[Peer, ...]:
    """Wait for the other machines and agree with them.

    Args:
        environ: of this process; what NCCL and Transformer Engine read of it is compared too.
    Returns:
        On node 0 all others, elsewhere node 0.
    Raises:
        RendezvousError: who is missing or different, and how.
    """
    assert plan.cluster is not None
    place, seconds = plan.cluster, float(plan.variables.rendezvous_timeout_seconds)
    mine = identity(plan) | {"environment": read_by_libraries(environ)}
    if place.node_rank == 0:
        return _Host(plan, place, mine, seconds).gather()
    return (_join(place, mine, seconds),)


def interface(peers: tuple[Peer, ...]) -> str | None:
    """The network interface that the other machines are reached through."""
    return interface_of(peers[0].connection.local_address) if peers else None


def this_node(node: int) -> Message:
    """The machine that this process runs on."""
    return Message("node", node=node, host=socket.gethostname())


def received(content: object) -> Message:
    """What another machine says."""
    return read_message(content) or Message("uncoded", text=content)


class _Host:
    """Node 0: waits for all others, and gives the verdict."""

    def __init__(self, plan: Plan, place: Cluster, mine: dict[str, Any], seconds: float) -> None:
        self._plan, self._place, self._mine = plan, place, mine
        self._seconds, self._deadline = seconds, time.monotonic() + seconds
        self._me = this_node(0)
        self._lock = threading.Lock()
        self._peers: dict[int, Peer] = {}
        self._reasons: list[Message] = []

    def gather(self) -> tuple[Peer, ...]:
        """Accept machines until all are there, one is wrong, or the time is over."""
        try:
            server = listen(self._place.master_port)
        except OSError as error:
            values = {"me": self._me, "port": self._place.master_port, "error": error.strerror}
            raise RendezvousError("meet-port", **values) from error
        with server, _probe_file(Path(self._plan.output)) as self._probe:
            server.settimeout(0.2)
            word = time.monotonic() + WORD_EVERY
            while len(self._peers) < self._place.nodes - 1 and not self._reasons and time.monotonic() < self._deadline:
                with contextlib.suppress(TimeoutError):
                    stream, address = server.accept()
                    threading.Thread(target=self._greet, args=(stream, address[0]), daemon=True).start()
                if time.monotonic() > word:
                    say("meet-waiting", missing=self._missing(), nodes=self._place.nodes)
                    word += WORD_EVERY
        return self._verdict()

    def _verdict(self) -> tuple[Peer, ...]:
        with self._lock:
            reasons, peers = list(self._reasons), dict(self._peers)
        if not reasons and len(peers) < self._place.nodes - 1:
            reasons = [self._nobody_came(peers)]
        for peer in peers.values():
            peer.connection.send({"go": not reasons, "reasons": as_json(reasons)})
        if reasons:
            raise RendezvousError.of(reasons)
        return tuple(peers[node] for node in sorted(peers))

    def _nobody_came(self, peers: dict[int, Peer]) -> Message:
        address, nodes = self._place.master_addr, self._place.nodes
        what = Message("meet-missing", me=self._me, missing=self._missing(), nodes=nodes, seconds=self._seconds)
        if peers:
            what = Message("meet-here", what=what, here=[peer.name for peer in peers.values()])
        if not is_local(address):
            return Message("meet-not-mine", what=what, address=address)
        return Message("meet-unreachable", what=what, where=f"{address}:{self._place.master_port}")

    def _missing(self) -> list[Message]:
        return [Message("node-alone", node=node) for node in range(1, self._place.nodes) if node not in self._peers]

    def _greet(self, stream: socket.socket, address: str) -> None:
        """One machine: who is it, does it agree, does it see our file? In a thread of its own."""
        connection = Connection(stream)
        try:
            theirs = connection.receive(ANSWERS_SECONDS)
            if theirs.get("protocol") != PROTOCOL:
                raise PeerError("link-other")
            connection.send({"probe": str(self._probe), "identity": self._mine, "host": socket.gethostname()})
            seen = connection.receive(SHARED_SECONDS + ANSWERS_SECONDS)
            peer = Peer(node=int(theirs["node"]), host=str(theirs["host"]), connection=connection)
            different = [*differences(self._mine, theirs["identity"])]
            uneven = [*_compare(self._mine["environment"], theirs["identity"]["environment"])]
        except (PeerError, KeyError, TypeError, ValueError, AttributeError) as error:
            say("meet-stranger", me=self._me, address=address, error=error)
            connection.close()
            return
        reasons = [Message("meet-differ", peer=peer.name, me=self._me, what=what) for what in different]
        for what in uneven:  # an interface may well have another name there, so nothing is refused
            say("meet-environments", peer=peer.name, me=self._me, what=what)
        if seen.get("probe") != self._probe.name:
            reasons.append(Message("meet-folder", peer=peer.name, me=self._me, folder=self._plan.output))
        with self._lock:
            other = self._peers.get(peer.node)
            if other is not None and _has_closed(other.connection):  # started a second time while node 0 waited
                other = None
            if other is not None or not 0 < peer.node < self._place.nodes:
                twin = other.name if other else self._me
                reasons.append(Message("meet-same-rank", peer=peer.name, other=twin, rank=peer.node))
                connection.send({"go": False, "reasons": as_json(reasons)})
            else:
                self._peers[peer.node] = peer
            self._reasons += reasons


def _has_closed(connection: Connection) -> bool:
    with contextlib.suppress(PeerError):
        connection.poll()
    return connection.closed


@contextlib.contextmanager
def _probe_file(folder: Path) -> Iterator[Path]:
    """A file with a name that nobody can guess, for as long as the machines look for it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".rendezvous_{secrets.token_hex(8)}"
    path.write_text("")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _join(place: Cluster, mine: dict[str, Any], seconds: float) -> Peer:
    """Any other node: find node 0, say what it is about to do, wait for the verdict."""
    deadline = time.monotonic() + seconds
    me = this_node(place.node_rank)
    connection = _connect(place, me, seconds, deadline)
    try:
        connection.send({"protocol": PROTOCOL, "node": place.node_rank, "host": socket.gethostname(), "identity": mine})
        answer = connection.receive(min(ANSWERS_SECONDS, seconds))
        probe = Path(answer["probe"])
        connection.send({"probe": probe.name if _appears(probe) else None})
        verdict = connection.receive(max(0.0, deadline - time.monotonic()) + SHARED_SECONDS + ANSWERS_SECONDS)
        if not verdict["go"]:
            raise RendezvousError.of([received(one) for one in verdict["reasons"]])
    except (PeerError, KeyError) as error:
        connection.close()
        code, why = ("meet-wrong-answer", str(error)) if isinstance(error, KeyError) else ("meet-no-answer", error)
        where = f"{place.master_addr}:{place.master_port}"
        raise RendezvousError(code, me=me, where=where, error=why) from error
    return Peer(node=0, host=str(answer["host"]), connection=connection)


def _connect(place: Cluster, me: Message, seconds: float, deadline: float) -> Connection:
    where, word = f"{place.master_addr}:{place.master_port}", time.monotonic() + WORD_EVERY
    while True:
        try:
            return Connection(socket.create_connection((place.master_addr, place.master_port), timeout=5))
        except OSError as error:
            last = str(error.strerror or error)
        if time.monotonic() >= deadline:
            raise RendezvousError("meet-nobody", me=me, where=where, seconds=seconds, error=last)
        if time.monotonic() > word:
            say("meet-waiting-first", where=where, error=last)
            word += WORD_EVERY
        time.sleep(min(1.0, seconds / 20))


def _appears(path: Path) -> bool:
    """Whether a file shows up; listing its folder, and the one above it, makes NFS look again."""
    deadline = time.monotonic() + SHARED_SECONDS
    while not (_is_listed(path.parent) and _is_listed(path)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _is_listed(path: Path) -> bool:
    try:
        return path.name in {entry.name for entry in path.parent.iterdir()}
    except OSError:
        return False


PACKAGES = (
    "torch",
    "megatron-core",
    "transformer-engine",
    "transformer-engine-cu12",
    "transformer-engine-cu13",
    "flash-attn-4",
    "nvidia-cutlass-dsl",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "numpy",
)
"""Those that take part in a step, or in what it reads."""


def identity(plan: Plan) -> dict[str, Any]:
    """Everything that two machines compare, as JSON carries it."""
    data = (*plan.train_data, *(plan.valid_data or ()))
    facts = {
        "values": values_of(plan),
        "flags": megatron_argv(plan),
        "machines": plan.layout.nodes,
        "processes of each machine": plan.layout.processes,
        "tokens of the data": {one.path: one.tokens for one in data},
        "checkpoint to resume from": plan.resume_iteration,
    }
    carried: dict[str, Any] = json.loads(json.dumps(facts))  # tuples become lists here as they do on the way
    return carried | {"plan": _digest(carried), "code": code_digest(), "packages": packages()}


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """SHA-256 over the names and contents of every Python file that a run may execute."""
    digest = hashlib.sha256()
    for folder in ("megatron_patch", "examples"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def packages() -> dict[str, str]:
    """Versions of Python and of what takes part in a step."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Message]:
    """What is not the same, `WHAT is THEIRS there, MINE here` each; nothing if all is."""
    if theirs.get("plan") != mine["plan"]:
        lines = [*_plan_differences(mine, theirs)]
        yield from lines or [Message("differ-plans")]
    if theirs.get("code") != mine["code"]:
        yield Message("differ-code", theirs=str(theirs.get("code"))[:12], ours=mine["code"][:12])
    yield from _compare(mine["packages"], theirs.get("packages", {}))


def _plan_differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Message]:
    values = [*_compare(mine["values"], theirs.get("values", {}))]
    yield from values
    keys = ("machines", "processes of each machine", "checkpoint to resume from")
    others = [
        *_compare({key: mine[key] for key in keys}, {key: theirs.get(key) for key in keys}),
        *_compare(mine["tokens of the data"], theirs.get("tokens of the data", {})),
    ]
    yield from others
    if not values and not others:
        here, there = set(mine["flags"]), set(theirs.get("flags", []))
        more = " ".join(sorted(there - here)) or Message("differ-no-flags")
        yield Message("differ-flags", theirs=more, ours=" ".join(sorted(here - there)))


def _compare(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Message]:
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            there, here = meant(key, theirs.get(key)), meant(key, mine.get(key))
            yield Message("differ-value", name=_name(key), theirs=_shown(there), ours=_shown(here))


def _name(key: str) -> Message:
    """One of the 25 with its number; the name of anything else."""
    return Message("position", number=NUMBERS[key], name=key) if key in NUMBERS else named(key)


def _shown(value: object) -> Message | str:
    return Message("differ-absent") if value is None else shown(value)
