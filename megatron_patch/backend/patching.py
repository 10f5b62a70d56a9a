"""The one tool with which this package changes Megatron or torch.

A patch names what it replaces and what upstream does there. If upstream renamed or moved it, the run ends with an
error that says so, instead of training with half a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from megatron_patch.common.errors import UserError

PINNED_VERSIONS = {"megatron-core": "0.19.2", "torch": "2.11.0"}
"""What every patch in this package was read and tried against; a local suffix such as `+cu130` is allowed."""

APPLIED: list[str] = []
"""One line for each patch of this process, in order; the trainer writes them into the rank's log."""


class BackendError(UserError, RuntimeError):
    """The installed Megatron, torch or device is not what this package was made for."""


def check_versions() -> None:
    """Refuse versions that nobody looked at.

    Raises:
        BackendError: a pinned package is missing or has another version.
    """
    for package, wanted in PINNED_VERSIONS.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            raise BackendError("package-not-installed", package=package, wanted=wanted) from None
        if found.split("+")[0] != wanted:
            raise BackendError("package-version", package=package, found=found, wanted=wanted)


def replace(owner: Any, name: str, value: Any, *, why: str) -> Any:
    """Set `owner.name` to `value` and return what was there.

    Args:
        owner: a module or a class.
        why: what upstream does, in one line.
    Raises:
        BackendError: upstream has no such name any more.
    """
    label = f"{getattr(owner, '__qualname__', None) or getattr(owner, '__name__', owner)}.{name}"
    if not hasattr(owner, name):
        raise BackendError("patch-target-gone", name=label, why=why)
    original = getattr(owner, name)
    setattr(owner, name, value)
    APPLIED.append(f"{label}: {why}")
    return original


def wrap(owner: Any, name: str, *, why: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the decorated function replaces `owner.name` and gets the original as its first argument."""

    def decorate(replacement: Callable[..., Any]) -> Callable[..., Any]:
        def patched(*args: Any, **kwargs: Any) -> Any:
            return replacement(original, *args, **kwargs)

        original = replace(owner, name, patched, why=why)
        patched.__name__ = name
        patched.__wrapped__ = original  # type: ignore[attr-defined]  # so that inspect.signature sees upstream's
        return patched

    return decorate
