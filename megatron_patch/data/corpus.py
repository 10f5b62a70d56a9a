"""A corpus as chunks of documents: cut cheaply by one process, read by many, split over machines.

Plain JSON Lines are cut by seeking, and workers read their part themselves. Compressed files and Parquet are read
by the cutting process, which hands out lines and texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from megatron_patch.data.compressed import ReadErrors, open_binary, plain_suffix
from megatron_patch.data.jsonl import DataError, ReadCounts, hint_of, text_of

SUFFIXES = (".jsonl", ".json", ".parquet")
CHUNK_BYTES = 1 << 22
"""Of a file in one chunk."""


class Position(NamedTuple):
    """Where a chunk ends: from here on the work can be taken up again."""

    file: int = 0
    offset: int = 0
    """Bytes, decompressed; in Parquet rows."""
    line: int = 0
    """Lines of this file before it, where they were counted; -1 where they were not."""


class Chunk(NamedTuple):
    """Some lines or rows of one file."""

    start: Position
    end: Position
    payload: Any
    """None (read it from the file), the bytes of its lines, or an Arrow array of texts."""
    size: int
    """Bytes of the file, for progress."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The files of one run, or one machine's share of them."""

    files: list[Path]
    key: str
    """Field or column that holds the text."""
    shard: int = 0
    shards: int = 1
    """Consecutive parts of about the same number of bytes: concatenated they are the whole."""

    def chunks(self, start: Position) -> Iterator[Chunk]:
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
            at = start if number == start.file else Position(number)
            yield from _named(path, self._of_file(path, size, at, low, high))

    def _of_file(self, path: Path, size: int, at: Position, low: int, high: int) -> Iterator[Chunk]:
        """The part of a file that begins between bytes `low` and `high`."""
        if plain_suffix(path) == ".parquet":
            return _parquet(path, self.key, at, low / size, high / size)
        if path.suffix == plain_suffix(path):
            return _plain(path, at, low, high)
        # A compressed file cannot be entered in the middle: it belongs to the shard in which it begins.
        return _compressed(path, at, size) if low == 0 else iter(())

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
        raise DataError(f"{source} does not exist")
    files = sorted(path for path in source.rglob("*") if path.is_file() and plain_suffix(path) in SUFFIXES)
    if not files:
        raise DataError(f"{source} holds no file that ends in .jsonl or .json (also .gz, .zst), or .parquet")
    return files


def texts_of(files: list[Path], key: str) -> Iterator[str]:
    """Every document's text, in the order of files and lines.

    Raises:
        DataError: a damaged file or a bad line; names file and line.
    """
    for chunk in Corpus(files=files, key=key).chunks(Position()):
        yield from read(chunk, files[chunk.start.file], key).texts


def _named(path: Path, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    try:
        yield from chunks
    except ReadErrors as error:
        raise DataError(f"{path} cannot be read to its end: {error}") from None


def _plain(path: Path, at: Position, low: int, high: int) -> Iterator[Chunk]:
    """Lines that begin in [low, high)."""
    with path.open("rb") as file:
        start = max(at.offset, _line_start(file, low))
        while start < high:
            file.seek(min(start + CHUNK_BYTES, high) - 1)
            file.readline()
            end = file.tell()
            yield Chunk(Position(at.file, start, -1), Position(at.file, end, -1), None, end - start)
            start = end


def _line_start(file: Any, offset: int) -> int:
    """The first line that begins at or after `offset`."""
    if offset == 0:
        return 0
    file.seek(offset - 1)
    file.readline()
    return int(file.tell())


def _compressed(path: Path, at: Position, size: int) -> Iterator[Chunk]:
    with open_binary(path) as file:
        left = at.offset
        while left:  # what has been worked through before; seeking would read it too
            left -= len(file.read(min(left, CHUNK_BYTES)))
        start = at
        while lines := file.readlines(CHUNK_BYTES):
            data = b"".join(lines)
            end = Position(at.file, start.offset + len(data), start.line + len(lines))
            yield Chunk(start, end, data, min(size, len(data) // 3))  # progress only: a usual ratio
            start = end


def _parquet(path: Path, key: str, at: Position, low: float, high: float) -> Iterator[Chunk]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if key not in file.schema_arrow.names:
                raise DataError(f"{path}: no column {key!r}; its columns: {', '.join(file.schema_arrow.names)}")
            kind = file.schema_arrow.field(key).type
            if kind not in (pyarrow.string(), pyarrow.large_string()):
                raise DataError(f"{path}: column {key!r} holds {kind}; wanted string")
            rows = file.metadata.num_rows
            first, last = -int(-rows * low // 1), -int(-rows * high // 1)
            row = 0
            per_row = path.stat().st_size / max(1, rows)
            groups = range(file.metadata.num_row_groups)
            inflated = sum(file.metadata.row_group(group).total_byte_size for group in groups) / max(1, rows)
            at_once = min(10_000, max(1, int(CHUNK_BYTES / max(1, inflated))))
            for batch in file.iter_batches(batch_size=at_once, columns=[key]):
                begin, end = max(first, at.offset, row), min(last, row + batch.num_rows)
                if begin < end:
                    texts = batch.column(0).slice(begin - row, end - begin)
                    start, stop = Position(at.file, begin, begin), Position(at.file, end, end)
                    yield Chunk(start, stop, texts, int(per_row * (end - begin)))
                row += batch.num_rows
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None


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
    found = Documents()
    if chunk.payload is not None and not isinstance(chunk.payload, bytes):
        _read_column(found, chunk, path, key)
        return found
    data = chunk.payload
    if data is None:
        with path.open("rb") as file:
            file.seek(chunk.start.offset)
            data = file.read(chunk.end.offset - chunk.start.offset)
    found.counts.bytes = len(data)
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines):
        found.counts.lines += 1
        if not line or line.isspace():
            found.counts.blank_lines += 1
            continue
        try:
            text = text_of(line, key)
        except DataError as error:
            where = _lines_before(chunk.start, path) + number + 1
            raise DataError(f"{path}:{where}: {error}{hint_of(line, where)}") from None
        if text:
            found.texts.append(text)
        else:
            found.counts.empty_documents += 1
    return found


def _read_column(found: Documents, chunk: Chunk, path: Path, key: str) -> None:
    for row, text in enumerate(chunk.payload.to_pylist(), start=chunk.start.offset + 1):
        found.counts.lines += 1
        if text is None:
            raise DataError(f"{path}: row {row}: the value of {key!r} is null; wanted a string")
        found.counts.bytes += len(text)
        if text:
            found.texts.append(text)
        else:
            found.counts.empty_documents += 1


def _lines_before(start: Position, path: Path) -> int:
    """Lines of the file before this position; plain files are only counted when a complaint needs it."""
    if start.line >= 0:
        return start.line
    count, left = 0, start.offset
    with path.open("rb") as file:
        while left:
            block = file.read(min(left, 1 << 20))
            count += block.count(b"\n")
            left -= len(block)
    return count
