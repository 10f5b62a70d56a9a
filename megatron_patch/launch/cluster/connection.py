"""A TCP connection between the launchers of two machines that carries one JSON object a line."""

from __future__ import annotations

import errno
import fcntl
import json
import socket
import struct
import time
from pathlib import Path
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.strict_json import parse_json

LONGEST_LINE = 4 << 20
"""Bytes; a longer line is not from a launcher."""
SIOCGIFADDR = 0x8915
"""ioctl that asks for an interface's IPv4 address. Source: linux/sockios.h."""

IPV6_ADDRESSES = Path("/proc/net/if_inet6")
"""A line for each address of this machine: the address in hexadecimal digits, four numbers, the interface."""


class PeerError(UserError):
    """The other end closed, sent what is not a line of ours, or said nothing in time."""


class Connection:
    """One end. Lines that were received are kept until they are asked for."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream
        self._received = b""
        self.closed = False
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    @property
    def local_address(self) -> str:
        """The address of this machine that the other one talks to."""
        return str(self._socket.getsockname()[0]).removeprefix("::ffff:")

    def send(self, message: dict[str, Any]) -> None:
        """Send one object. A connection that is down is noticed by who listens, not here."""
        try:
            self._socket.settimeout(5)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    def receive(self, seconds: float) -> dict[str, Any]:
        """Wait for one object.

        Raises:
            PeerError: nothing whole came in time, or the other end closed.
        """
        deadline = time.monotonic() + seconds
        while (message := self.poll(max(0.0, min(1.0, deadline - time.monotonic())))) is None:
            if self.closed:
                raise PeerError("link-closed")
            if time.monotonic() >= deadline:
                raise PeerError("link-silent", seconds=seconds)
        return message

    def poll(self, seconds: float = 0.0) -> dict[str, Any] | None:
        """The next object if it is there within `seconds`. Sets `closed` when there will be no more.

        Raises:
            PeerError: what came is not an object of ours.
        """
        if b"\n" not in self._received and not self.closed:
            self._read(seconds)
        if b"\n" not in self._received:
            return None
        line, self._received = self._received.split(b"\n", 1)
        try:
            message = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise PeerError("link-stranger", line=repr(line[:40])) from error
        if not isinstance(message, dict):
            raise PeerError("link-stranger", line=repr(line[:40]))
        return message

    def _read(self, seconds: float) -> None:
        try:
            self._socket.settimeout(max(seconds, 0.001))
            data = self._socket.recv(65536)
        except TimeoutError:
            return
        except OSError:
            data = b""
        self.closed = not data
        self._received += data
        if len(self._received) > LONGEST_LINE:
            raise PeerError("link-endless")

    def close(self) -> None:
        """Close this end."""
        self.closed = True
        self._socket.close()


def listen(port: int) -> socket.socket:
    """A socket on all addresses of this machine, IPv4 and IPv6 where there is IPv6.

    torchrun binds the same port right after it is closed: connections that are still open do not hinder that, as both
    set SO_REUSEADDR.

    Raises:
        OSError: the port is taken.
    """
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:  # anything else may be a kernel whose IPv6 is switched off
                raise
    return socket.create_server(("", port))


def is_local(address: str) -> bool:
    """Whether a name or address is this machine's own: only those can be bound."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(where)
    except OSError:
        return False
    return True


def interface_of(address: str) -> str | None:
    """The name of the network interface that has an address, such as `eth0`; None if none has it."""
    return _interface_of_ipv6(address) if ":" in address else _interface_of_ipv4(address)


def _interface_of_ipv6(address: str) -> str | None:
    wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
    try:
        lines = IPV6_ADDRESSES.read_text().splitlines()
    except OSError:  # a kernel without IPv6
        return None
    return next((line.split()[5] for line in lines if line.startswith(wanted)), None)


def _interface_of_ipv4(address: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
