"""Files that are written whole or not at all. Standard library only.

A file grows under a hidden name in its own folder and takes its name when it is whole, so a reader finds the old one
or the new one, and a full disk or a killed process leaves the old one.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


def real_path(path: Path) -> Path:
    """Absolute and without links, as `resolve`, which raises RuntimeError where a link leads to itself."""
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write to; left without an exception it replaces `path`, else nothing is left of it.

    Args:
        path: its folder must exist. A symbolic link stays one: what it points to is replaced.
        durable: on the disk before it takes its name, and its name too: survives a crash of the machine.
    Raises:
        OSError: it cannot be written.
    """
    final = Path(os.path.realpath(path)) if path.is_symlink() else path
    partial = final.with_name(f".{final.name[:200]}.{os.urandom(4).hex()}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(final)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync(final.parent)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """See `atomic_file`."""
    with atomic_file(path, durable=durable) as file:
        file.write(content)


def write_text(path: Path, text: str, *, durable: bool = False, errors: str = "strict") -> None:
    """See `atomic_file`; UTF-8.

    Args:
        errors: as in `str.encode`, for text with half characters in it.
    """
    write_bytes(path, text.encode("utf-8", errors), durable=durable)


def write_json(path: Path, content: Any, *, indent: int | None = 2, durable: bool = False) -> None:
    """See `atomic_file`; characters beyond ASCII as they are.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n", durable=durable, errors="backslashreplace")


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
