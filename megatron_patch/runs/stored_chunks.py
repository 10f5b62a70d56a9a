"""`checksums.json` of a run's checkpoint: the SHA-256 of every stored chunk, and holding the files against it.

A chunk is what torch wrote of one tensor or object into a `.distcp` file: whoever reads a slice of it reads and hashes
that chunk alone. Standard library only, so that the launcher can look too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.common.checksum import range_sha256
from megatron_patch.common.errors import UserError, messages_of
from megatron_patch.common.files import write_text
from megatron_patch.common.messages import Message, at
from megatron_patch.common.strict_json import read_json

FILE = "checksums.json"
METADATA = ".metadata"
"""torch's index of a checkpoint: which chunk lies where."""
DISK_PAGE = 4096
"""Bytes: what a disk or file system loses at a time."""


class ChunkError(UserError, ValueError):
    """A stored chunk, or the index of them, is not what was written: file, item and kind of damage."""


@dataclass(frozen=True, kw_only=True)
class StoredChunk:
    """One tensor or object in a file of a checkpoint."""

    file: str
    """Its name in the folder."""
    offset: int
    length: int
    """Bytes."""
    sha256: str
    item: str
    """Its key, and where in the tensor it begins."""

    @property
    def end(self) -> int:
        """Of its last byte, plus one."""
        return self.offset + self.length


@dataclass(frozen=True, kw_only=True)
class Checksums:
    """What `checksums.json` says."""

    iteration: int | None
    """Of a folder called iter_NNNNNNN when it was written."""
    metadata_sha256: str
    chunks: Mapping[tuple[str, int], StoredChunk]
    """By file and offset."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        found: dict[str, int] = {}
        for chunk in self.chunks.values():
            found[chunk.file] = max(found.get(chunk.file, 0), chunk.end)
        return found


def iteration_of(folder: Path) -> int | None:
    """The number in `iter_NNNNNNN`; None for other names, and for numbers that no run reaches."""
    found = re.fullmatch(r"iter_([0-9]{7,12})", folder.name)
    return int(found[1]) if found else None


def is_reserved(folder: Path) -> bool:
    """Whether it is an empty folder: Megatron makes one under a checkpoint's name when a save begins."""
    try:
        return folder.is_dir() and not any(folder.iterdir())
    except FileNotFoundError:  # it has just been replaced or removed
        return False


def write_checksums(folder: Path, chunks: Iterable[StoredChunk], *, iteration: int | None) -> None:
    """Write `checksums.json` into a folder that has its `.metadata`."""
    files: dict[str, list[list[Any]]] = {}
    for chunk in sorted(chunks, key=lambda chunk: (chunk.file, chunk.offset)):
        files.setdefault(chunk.file, []).append([chunk.offset, chunk.length, chunk.sha256, chunk.item])
    metadata = hashlib.sha256((folder / METADATA).read_bytes()).hexdigest()
    body = {"algorithm": "sha256", "iteration": iteration, METADATA: metadata, "files": files}
    write_text(folder / FILE, json.dumps({"self": _digest_of(body), **body}, separators=(",", ":")) + "\n")


def _digest_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_checksums(folder: Path) -> Checksums | None:
    """What was noted when the checkpoint was written; None for one that was written without.

    Raises:
        ChunkError: it is damaged itself.
    """
    try:
        body = read_json(folder / FILE, large=True, most=1 << 30)
        if body.pop("self") != _digest_of(body):
            raise ChunkError("checksums-self")
        chunks = {
            (name, offset): StoredChunk(file=name, offset=offset, length=length, sha256=sha256, item=item)
            for name, entries in body["files"].items()
            for offset, length, sha256, item in entries
        }
        return Checksums(iteration=body["iteration"], metadata_sha256=body[METADATA], chunks=chunks)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ChunkError.at(folder / FILE, "checksums-damaged", error=error) from None


def find_structural_damage(folder: Path) -> list[Message]:
    """What is wrong with a torch_dist folder that can be seen without reading its tensors.

    Returns:
        A sentence for each: absent or empty files, wrong sizes, another iteration's name. Empty for a sound folder.
    """
    problems: list[Message] = []
    try:
        described = read_json(folder / "metadata.json")
        if not isinstance(described, dict) or described.get("sharded_backend") != "torch_dist":
            problems.append(at(folder / "metadata.json", "metadata-other"))
    except FileNotFoundError:
        problems.append(at(folder, "metadata-absent"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(at(folder / "metadata.json", "metadata-damaged", error=error))
    if not _size(folder / METADATA):
        problems.append(at(folder / METADATA, "missing-or-empty"))
    try:
        checksums = read_checksums(folder)
    except ChunkError as error:
        return [*problems, *error.messages]
    if checksums is None:
        return problems if any(folder.glob("*.distcp")) else [*problems, at(folder, "no-distcp")]
    return problems + list(_wrong_names_and_sizes(folder, checksums))


def _wrong_names_and_sizes(folder: Path, checksums: Checksums) -> Iterator[Message]:
    named = iteration_of(folder)
    if None not in (named, checksums.iteration) and named != checksums.iteration:
        yield at(folder, "folder-renamed", iteration=checksums.iteration)
    for name, size in checksums.sizes().items():
        found = _size(folder / name)
        if found is None:
            yield at(folder / name, "missing")
        elif found != size:
            yield at(folder / name, "bytes-written", found=found, written=size)


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size if file.is_file() else None
    except OSError:
        return None


def check_metadata(folder: Path, checksums: Checksums, content: bytes) -> None:
    """Hold the content of `.metadata` against its SHA-256.

    Raises:
        ChunkError: it is not what was written.
    """
    if hashlib.sha256(content).hexdigest() != checksums.metadata_sha256:
        raise ChunkError.at(folder / METADATA, "bytes-differ")


def check_chunk(folder: Path, checksums: Checksums, file: str, offset: int, length: int) -> None:
    """Read a chunk and hold it against its SHA-256. Threads may do it side by side: both leave the GIL.

    Raises:
        ChunkError: it is absent, cut off, or not what was written.
        OSError: it cannot be read.
    """
    chunk = checksums.chunks.get((file, offset))
    if chunk is None or chunk.length != length:
        raise ChunkError.at(folder / file, "chunk-unknown", file=FILE, length=length, offset=offset)
    try:
        found, nbytes = range_sha256(folder / file, offset, length)
    except FileNotFoundError:
        raise ChunkError.at(folder / file, "chunk-file-missing", item=chunk.item) from None
    if found != chunk.sha256:
        kind = _kind_of_damage(folder, chunk, found, nbytes)
        raise ChunkError.at(folder / file, "chunk-damaged", item=chunk.item, kind=kind)


def _kind_of_damage(folder: Path, chunk: StoredChunk, found: str, nbytes: int) -> Message:
    if nbytes < chunk.length:
        return Message("chunk-cut", found=nbytes, length=chunk.length)
    for other in folder.parent.glob("iter_*"):
        try:
            theirs = read_checksums(other) if other != folder else None
        except ChunkError:
            continue
        if theirs and (twin := theirs.chunks.get((chunk.file, chunk.offset))) and twin.sha256 == found:
            return Message("chunk-of-another", folder=other.name)
    zeros = _first_zero_page(folder / chunk.file, chunk)
    if zeros is None:
        return Message("bytes-differ")
    return Message("bytes-differ-zeros", first=zeros, end=zeros + DISK_PAGE)


def _first_zero_page(file: Path, chunk: StoredChunk) -> int | None:
    """Where the first page of zeros begins."""
    with file.open("rb") as stream:
        for first in range(-(-chunk.offset // DISK_PAGE) * DISK_PAGE, chunk.end - DISK_PAGE + 1, DISK_PAGE):
            stream.seek(first)
            if not any(stream.read(DISK_PAGE)):
                return first
    return None


def find_damage(
    folder: Path,
    checksums: Checksums,
    *,
    files: Sequence[str] | None = None,
    threads: int = 1,
) -> Iterator[Message]:
    """Read chunks again and hold them against their SHA-256.

    Args:
        files: only the chunks of these; all, and the index, if None.
    Returns:
        A sentence for each damaged one.
    """

    def look(chunk: StoredChunk) -> tuple[Message, ...]:
        try:
            check_chunk(folder, checksums, chunk.file, chunk.offset, chunk.length)
        except (ChunkError, OSError) as error:
            return messages_of(error)
        return ()

    if files is None:
        try:
            check_metadata(folder, checksums, (folder / METADATA).read_bytes())
        except (ChunkError, OSError) as error:
            yield from messages_of(error)
    wanted = [chunk for chunk in checksums.chunks.values() if files is None or chunk.file in files]
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(look, wanted):
            yield from found
