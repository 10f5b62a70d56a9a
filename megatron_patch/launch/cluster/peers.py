"""The other machines while a run lasts: a word every few seconds, and a sentence where one of them is lost."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Any

from megatron_patch.launch.cluster.connection import LinkError
from megatron_patch.launch.cluster.rendezvous import Peer


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
