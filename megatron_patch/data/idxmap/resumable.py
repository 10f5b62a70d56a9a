"""An idxmap that is written over hours: killed at any time, the next run of the same command goes on.

While it grows, PREFIX.bin.partial holds tokens, PREFIX.lengths.partial the tokens of each document, and
PREFIX.journal.partial what of them is settled. At the end the files move to their names, with PREFIX.build.json
beside them: how they were made, and their SHA-256.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from megatron_patch.common.strict_json import read_json
from megatron_patch.data.idxmap.writer import flush_and_close, partial, publish, token_type, write_index
from megatron_patch.data.rows import ReadPosition

COMMIT_BYTES = 1 << 26
"""Of tokens, between two entries of the journal: a second or two of work to lose."""


@dataclass(kw_only=True)
class Journal:
    """What is settled."""

    fingerprint: str
    """Of the command and its inputs: another one starts over."""
    position: list[int] = field(default_factory=lambda: list(ReadPosition()))
    """In the corpus, see `rows.ReadPosition`."""
    documents: int = 0
    tokens: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """See `jsonl.ReadCounts`."""


class ResumableWriter:
    """Writes one idxmap; a context manager. Two writers of one prefix: the second gets BlockingIOError."""

    def __init__(self, prefix: Path, vocab_size: int, fingerprint: str) -> None:
        """Args:
        prefix: path without suffix; its folder must exist.
        vocab_size: unpadded; decides the token type.
        fingerprint: partial files with the same one are continued, others are started over.
        """
        self.prefix = prefix
        self.dtype = token_type(vocab_size)
        self.journal = Journal(fingerprint=fingerprint)
        self.resumed = 0
        """Documents that an earlier run had settled."""
        self._sum = hashlib.sha256()
        self._unsettled = 0
        self._bin: BinaryIO
        self._lengths: BinaryIO

    @property
    def position(self) -> ReadPosition:
        """From here on the corpus has to be read."""
        return ReadPosition(*self.journal.position)

    def __enter__(self) -> Self:
        self._bin = partial(self.prefix, "bin").open("ab", buffering=1 << 20)
        fcntl.flock(self._bin, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._lengths = partial(self.prefix, "lengths").open("ab", buffering=1 << 16)
        self._take_up()
        return self

    def _take_up(self) -> None:
        """Cut the partial files to what the journal says, or to nothing."""
        found = self._read_journal()
        size, count = self._bin.tell(), self._lengths.tell()
        if found and found.tokens * np.dtype(self.dtype).itemsize <= size and found.documents * 4 <= count:
            self.journal = found
            self.resumed = found.documents
        self._bin.truncate(self.journal.tokens * np.dtype(self.dtype).itemsize)
        self._lengths.truncate(self.journal.documents * 4)
        if self.resumed:
            with partial(self.prefix, "bin").open("rb") as written:
                while block := written.read(1 << 22):
                    self._sum.update(block)

    def _read_journal(self) -> Journal | None:
        try:
            content = read_json(partial(self.prefix, "journal"))
            journal = Journal(**content)
        except (OSError, ValueError, TypeError):
            return None
        return journal if journal.fingerprint == self.journal.fingerprint else None

    def add(
        self, ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64], position: ReadPosition, counts: dict[str, int]
    ) -> None:
        """Append documents.

        Args:
            ids: [sum of lengths], of the token type.
            lengths: [documents], each at least 1.
            position: behind them.
            counts: what was met since the last call.
        """
        data = np.ascontiguousarray(ids, dtype=self.dtype).view(np.uint8)
        self._bin.write(data)
        self._sum.update(data)
        self._lengths.write(lengths.astype(np.int32).tobytes())
        journal = self.journal
        journal.position = list(position)
        journal.documents += len(lengths)
        journal.tokens += len(ids)
        journal.counts = dict(Counter(journal.counts) + Counter(counts))
        self._unsettled += len(data)
        if self._unsettled >= COMMIT_BYTES:
            self._commit()

    def _commit(self) -> None:
        for file in (self._bin, self._lengths):
            file.flush()
            os.fdatasync(file.fileno())
        new = partial(self.prefix, "journal").with_suffix(".new")
        new.write_text(json.dumps(asdict(self.journal)), encoding="utf-8")
        new.replace(partial(self.prefix, "journal"))
        self._unsettled = 0

    def finish(self, about: dict[str, Any]) -> None:
        """Move everything to its name.

        Args:
            about: goes into PREFIX.build.json, in front of counts and checksums.
        """
        flush_and_close(self._bin)
        flush_and_close(self._lengths)
        lengths = np.fromfile(partial(self.prefix, "lengths"), dtype=np.int32) if self.journal.documents else _NONE
        index_sum = write_index(partial(self.prefix, "idx"), lengths, self.dtype)
        build = {
            **about,
            "documents": self.journal.documents,
            "tokens": self.journal.tokens,
            "counts": self.journal.counts,
            "bin_sha256": self._sum.hexdigest(),
            "idx_sha256": index_sum,
        }
        partial(self.prefix, "build.json").write_text(json.dumps(build, indent=2) + "\n", encoding="utf-8")
        publish(self.prefix, "build.json")
        self._remove("lengths", "journal")

    def discard(self) -> None:
        """Leave nothing behind: what was read was wrong, so going on would be too."""
        self._remove("bin", "lengths", "journal", "idx", "build.json")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None and issubclass(kind, ValueError):
            self.discard()
        elif kind is not None and not self._bin.closed:
            self._commit()  # interrupted: all that was added is whole
        for file in (self._bin, self._lengths):
            file.close()

    def _remove(self, *suffixes: str) -> None:
        for suffix in suffixes:
            partial(self.prefix, suffix).unlink(missing_ok=True)


_NONE = np.zeros(0, dtype=np.int32)
