"""A corpus of texts as chunks: cut cheaply by one process, read by many, split over machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from megatron_patch.data import rows
from megatron_patch.data.jsonl import DataError, ReadCounts, text_in
from megatron_patch.data.rows import Chunk, Cut, ReadPosition
from megatron_patch.data.sources import is_source, visible

CHUNK_BYTES = 1 << 22
"""Of a file in one chunk."""


@dataclass(frozen=True, kw_only=True)
class TextCorpus:
    """The files of one run, or one machine's share of them."""

    files: list[Path]
    key: str
    """Field or column that holds the text."""
    shard: int = 0
    shards: int = 1
    """Consecutive parts of about the same number of bytes: concatenated they are the whole."""

    def chunks(self, start: ReadPosition) -> Iterator[Chunk]:
        """From a position on, in order.

        Raises:
            DataError: a damaged file.
        """
        before = 0
        sizes = [path.stat().st_size for path in self.files]
        first, last = (sum(sizes) * part // self.shards for part in (self.shard, self.shard + 1))
        for number, (path, size) in enumerate(zip(self.files, sizes, strict=True)):
            low, high = max(0, first - before), min(size, last - before)
            before += size
            if number < start.file or high <= low:
                continue
            at = start if number == start.file else None
            yield from rows.chunks(number, path, self._cut, at, (low / size, high / size))

    @property
    def _cut(self) -> Cut:
        return Cut(chunk_bytes=CHUNK_BYTES, row_keys=(self.key,), columns=[self.key])

    def total(self) -> int:
        """Bytes of this shard, about."""
        return sum(path.stat().st_size for path in self.files) // self.shards


def find_corpus(source: Path) -> list[Path]:
    """The files of a folder, sorted by path, or the one file itself.

    Raises:
        DataError: nothing there, or a folder without such a file.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError("data-missing", source=source)
    files = [path for path in visible(source) if is_source(path)]
    if not files:
        raise DataError("data-no-file", source=source)
    return files


def texts_of(files: list[Path], key: str) -> Iterator[str]:
    """Every document's text, in the order of files and lines.

    Raises:
        DataError: a damaged file or a bad line; names file and line.
    """
    for chunk in TextCorpus(files=files, key=key).chunks(ReadPosition()):
        yield from read(chunk, files[chunk.start.file], key).texts


@dataclass(kw_only=True)
class Documents:
    """The texts of one chunk."""

    texts: list[str] = field(default_factory=list)
    counts: ReadCounts = field(default_factory=ReadCounts)


def read(chunk: Chunk, path: Path, key: str) -> Documents:
    """The documents of a chunk.

    Raises:
        DataError: a bad line; names file and line.
    """
    parsed = rows.parse(chunk, path)
    found = Documents()
    found.counts.lines, found.counts.blank_lines = parsed.lines, parsed.blank_lines
    found.counts.bytes = parsed.bytes
    for row in parsed.rows:
        try:
            text = _text(row, key)
        except DataError as error:
            line = row.line and row.line + rows.lines_before(chunk.start, path)
            raise error.about(rows.place(path, line, row.row)) from None
        if text:
            found.texts.append(text)
        else:
            found.counts.empty_documents += 1
    if chunk.kind == "parquet":
        found.counts.bytes = sum(map(len, found.texts))
    return found


def _text(row: rows.Row, key: str) -> str:
    if row.error is not None:
        raise DataError.of([row.error])
    return text_in(row.record, key)
