"""Whether the Hugging Face hub can be reached, told in three seconds: its libraries try for half a minute."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from megatron_patch.common.errors import UserError

SECONDS = 3.0
"""For the name and the connection together."""


class NetworkError(UserError):
    """A host that does not answer."""


def require_hub(name: str, environ: Mapping[str, str]) -> None:
    """Make sure that the hub, or the proxy on the way to it, takes connections.

    Args:
        name: what is wanted from there, for the message.
        environ: HF_ENDPOINT; HF_HUB_OFFLINE says that the hub is not to be asked, which its library then tells.
    Raises:
        NetworkError: it cannot be reached.
    """
    if environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return
    address = urlsplit(environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host = address.hostname or ""
    first = _proxy(address.scheme, host) or (host, address.port or (80 if address.scheme == "http" else 443))
    if not answers(*first):
        raise NetworkError("hub-unreachable", name=name, host=first[0])


def _proxy(scheme: str, host: str) -> tuple[str, int] | None:
    from urllib.request import getproxies, proxy_bypass  # 20 ms that only downloads pay

    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy is None or proxy_bypass(host):
        return None
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return (parts.hostname, parts.port or 80) if parts.hostname else None


def answers(host: str, port: int, seconds: float = SECONDS) -> bool:
    """Whether a connection can be made; looking up the name, which has no time limit of its own, included."""
    found = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=seconds):
            found.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return found.is_set()
