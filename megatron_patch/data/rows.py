"""Rows of JSON, JSON Lines, Parquet and Arrow files: the one reader of pretraining and SFT.

The cutting process makes chunks (cheap), workers parse them. What a file is its content says, not its name:

    lines    one JSON value a line; a list on a line is opened: its elements are rows
    values   anything else: lists over several lines or several in one file, objects over several lines or several
             on one, and one object around a list of rows, `{"data": [...]}`
    parquet  each row an object of its columns; Arrow files too

A row that cannot be read is a Row with an error, and the others are not harmed; a file of which not even the ends of
its rows can be told is a DataError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from megatron_patch.common.messages import Message, named
from megatron_patch.data import arrow, parquet
from megatron_patch.data.compressed import ReadErrors, open_binary
from megatron_patch.data.jsonl import DataError, loads
from megatron_patch.data.jsonl import parse as parse_line
from megatron_patch.data.sources import plain_suffix

BOM = b"\xef\xbb\xbf"


class ReadPosition(NamedTuple):
    """Where a chunk ends: from here on the work can be taken up again."""

    file: int = 0
    offset: int = 0
    """Lines: bytes, decompressed. Else rows."""
    line: int = 0
    """Lines of this file before it, where they were counted; -1 where they were not."""


class Chunk(NamedTuple):
    """Some rows of one file, unparsed."""

    start: ReadPosition
    end: ReadPosition
    kind: str
    """`lines`, `values` or `parquet`."""
    payload: Any
    """Bytes of lines, or None (read them from the file); list of Value; Arrow record batch."""
    size: int
    """Bytes of the file that it stands for, for progress."""


class Row(NamedTuple):
    """One row: its record, or why there is none."""

    line: int
    """In the file, from 1; 0 in Parquet. Where the chunk's lines were not counted, in the chunk."""
    row: int
    """In the file, from 1; 0 where the line alone says which it is. In a list on a line: in that list."""
    record: Any
    error: Message | None = None


class Value(NamedTuple):
    """The text of one row."""

    line: int
    row: int
    text: str


def place(file: object, line: int, row: int) -> Message | str:
    """Where a row stands, for people: `FILE:LINE`, with `: row N` where the line does not say it alone."""
    at = f"{file}:{line}" if line else str(file)
    return Message("place-row", place=at, row=row) if row else at


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How files are cut."""

    chunk_bytes: int
    """Of text in one chunk, about."""
    row_keys: Collection[str]
    """Keys of rows: an object without any of them, around a list of such, is not a row."""
    columns: list[str] | None = None
    """Of Parquet files; None for all."""
    numbered: bool = False
    """Lines are counted, for which the cutting process reads them; else workers read plain files themselves."""


def chunks(
    number: int, path: Path, cut: Cut, start: ReadPosition | None = None, part: tuple[float, float] = (0, 1)
) -> Iterator[Chunk]:
    """The rows of a file as chunks, in order.

    Args:
        number: goes into the positions.
        start: work is taken up here.
        part: shares of the file, 0 to 1, that begin and end the shard; a file that cannot be entered in the middle
            belongs to the shard in which it begins.
    Raises:
        DataError: a damaged file, or one whose rows cannot be told apart; names file and line.
    """
    at = start or ReadPosition(number)
    try:
        if plain_suffix(path) == ".parquet":
            yield from _parquet(path, cut, at, part)
        elif plain_suffix(path) == ".arrow":
            yield from _arrow(path, cut, at) if not part[0] else ()
        elif not _is_lines(path, cut):
            yield from _values(path, cut, at) if not part[0] else ()
        elif path.suffix == plain_suffix(path) and not cut.numbered:
            size = path.stat().st_size
            yield from _plain_lines(path, cut, at, round(size * part[0]), round(size * part[1]))
        elif not part[0]:
            yield from _read_lines(path, cut, at)
    except ReadErrors as error:
        raise DataError("data-unreadable", file=path, error=error) from None


def _is_lines(path: Path, cut: Cut) -> bool:
    """Whether each line is a value of its own; from the first lines that are not blank."""
    with open_binary(path) as file:
        first, second = _next_line(file), _next_line(file)
    if code := _other_kind(first):
        raise DataError(code, file=path)
    text = first.decode(errors="replace")
    if not text.startswith(("[", "{")):
        return True
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return text[error.pos] not in "[{"
        broken_row = error.pos < len(text) or not second or (second[:1] == b"{" and _is_complete(second))
        return text[0] == "{" and broken_row  # else a value that goes on in the next line
    except (ValueError, RecursionError):
        return bool(second) or text[0] == "{"
    return bool(second) or not (isinstance(value, list) or wrapped(value, cut.row_keys))


KINDS = {
    b"\xff\xfe": "data-utf-16",
    b"\xfe\xff": "data-utf-16",
    b"\x1f\x8b": "data-gzip",
    b"\x28\xb5\x2f\xfd": "data-zstandard",
    b"\xfd7zXZ\0": "data-xz",
    b"BZh": "data-bzip2",
    b"PK\x03\x04": "data-zip",
    b"PAR1": "data-parquet",
}
"""What is said of files that begin so."""


def _other_kind(first: bytes) -> str:
    """Which code says what a file is whose first line is not text in UTF-8; empty where it may be."""
    found = next((code for magic, code in KINDS.items() if first.startswith(magic)), "")
    return found or ("data-nul-bytes" if b"\0" in first[:4] else "")


def _next_line(file: BinaryIO) -> bytes:
    for line in file:
        if line := line.strip().removeprefix(BOM).strip():
            return line
    return b""


def _is_complete(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def wrapped(value: object, row_keys: Collection[str]) -> list[Any]:
    """The rows in an object around them, such as `{"data": [...]}`; none in any other value.

    Raises:
        DataError: it holds several lists of rows.
    """
    if not isinstance(value, dict) or any(key in value for key in row_keys):
        return []
    lists = {name: inner for name, inner in value.items() if isinstance(inner, list) and _are_rows(inner, row_keys)}
    if len(lists) > 1:
        raise DataError("data-several-lists", lists=list(lists))
    return next(iter(lists.values()), [])


def _are_rows(values: list[Any], row_keys: Collection[str]) -> bool:
    return bool(values) and isinstance(values[0], dict) and any(key in values[0] for key in row_keys)


def _plain_lines(path: Path, cut: Cut, at: ReadPosition, low: int, high: int) -> Iterator[Chunk]:
    """Lines that begin in [low, high), found by seeking."""
    with path.open("rb") as file:
        start = max(at.offset, _line_start(file, low))
        while start < high:
            file.seek(min(start + cut.chunk_bytes, high) - 1)
            file.readline()
            end = file.tell()
            yield Chunk(ReadPosition(at.file, start, -1), ReadPosition(at.file, end, -1), "lines", None, end - start)
            start = end


def _line_start(file: BinaryIO, offset: int) -> int:
    """The first line that begins at or after `offset`."""
    if offset == 0:
        return 0
    file.seek(offset - 1)
    file.readline()
    return file.tell()


def _read_lines(path: Path, cut: Cut, at: ReadPosition) -> Iterator[Chunk]:
    size, packed = path.stat().st_size, path.suffix != plain_suffix(path)
    with open_binary(path) as file:
        left = at.offset
        while left and (done := file.read(min(left, cut.chunk_bytes))):  # worked through before; a seek reads it too
            left -= len(done)
        start = at
        while lines := file.readlines(cut.chunk_bytes):
            data = b"".join(lines)
            end = ReadPosition(at.file, start.offset + len(data), start.line + len(lines))
            stands_for = min(size, len(data) // 3) if packed else len(data)  # progress only: a usual ratio
            yield Chunk(start, end, "lines", data, stands_for)
            start = end


def _values(path: Path, cut: Cut, at: ReadPosition) -> Iterator[Chunk]:
    with open_binary(path) as file:
        text = file.read().decode("utf-8-sig", errors="surrogateescape")
    ratio = path.stat().st_size / max(1, len(text))
    found: list[Value] = []
    size, start = 0, at
    for value in _Values(text, path, cut.row_keys):
        if value.row <= at.offset:
            continue
        found.append(value)
        size += len(value.text)
        if size > cut.chunk_bytes:
            end = ReadPosition(at.file, value.row)
            yield Chunk(start, end, "values", found, int(size * ratio))
            found, size, start = [], 0, end
    if found:
        yield Chunk(start, ReadPosition(at.file, found[-1].row), "values", found, int(size * ratio))


_SPACE = re.compile(r"\s*")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class _Values:
    """The rows in a text of JSON values, as texts: only their ends are found here."""

    def __init__(self, text: str, path: Path, row_keys: Collection[str]) -> None:
        self._text, self._path, self._row_keys = text, path, row_keys
        self._scan = json.JSONDecoder().raw_decode
        self._at = self._seen = self._row = 0
        self._line = 1

    def __iter__(self) -> Iterator[Value]:
        while (at := self._skip(self._at)) < len(self._text):
            if self._text[at] == "[":
                self._at = at + 1
                yield from self._list()
            else:
                yield from self._object(at)

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at

    def _where(self) -> Message | str:
        return place(self._path, self._line, self._row)

    def _list(self) -> Iterator[Value]:
        """The elements of a list, from behind its bracket on."""
        while (at := self._skip(self._at)) < len(self._text) and self._text[at] != "]":
            yield self._value(at)
            end = self._skip(self._at)
            if self._text[end : end + 1] not in (",", "]", ""):
                line = self._text.count("\n", 0, end) + 1
                found = repr(self._text[end : end + 20])
                raise DataError("data-list-comma", place=f"{self._path}:{line}", found=found)
            self._at = end + (self._text[end : end + 1] == ",")
        if at >= len(self._text):
            raise DataError("data-list-cut", place=self._where())
        self._at = at + 1

    def _object(self, at: int) -> Iterator[Value]:
        """A value outside of a list: a row, or the object around all rows."""
        value = self._value(at)
        inside: list[Any] = []
        if self._row == 1 and self._skip(self._at) == len(self._text):
            try:
                inside = wrapped(loads(value.text), self._row_keys)
            except DataError as error:
                raise error.about(self._where()) from None
        if inside:
            yield from (Value(value.line, row, json.dumps(one)) for row, one in enumerate(inside, start=1))
        else:
            yield value

    def _value(self, at: int) -> Value:
        self._line += self._text.count("\n", self._seen, at)
        self._seen = at
        self._row += 1
        try:
            end = self._scan(self._text, at)[1]
        except json.JSONDecodeError as error:
            where = place(self._path, error.lineno, self._row)
            raise DataError("data-bad-json", place=where, column=error.colno, error=named(error.msg)) from None
        except (ValueError, RecursionError):  # too long a number, or too deep: who parses it says so
            end = self._end_by_brackets(at)
        self._at = end
        return Value(self._line, self._row, self._text[at:end])

    def _end_by_brackets(self, at: int) -> int:
        depth = 0
        for match in _BRACKET.finditer(self._text, at):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
            if depth <= 0 and match[0][0] != '"':
                return match.end()
        raise DataError("data-value-cut", place=self._where())


def _parquet(path: Path, cut: Cut, at: ReadPosition, part: tuple[float, float]) -> Iterator[Chunk]:
    for first, batch, size in parquet.batches(path, cut.columns, cut.chunk_bytes, at.offset, part):
        yield Chunk(ReadPosition(at.file, first), ReadPosition(at.file, first + batch.num_rows), "parquet", batch, size)


def _arrow(path: Path, cut: Cut, at: ReadPosition) -> Iterator[Chunk]:
    for first, batch, size in arrow.batches(path, cut.columns, cut.chunk_bytes, at.offset):
        yield Chunk(ReadPosition(at.file, first), ReadPosition(at.file, first + batch.num_rows), "parquet", batch, size)


@dataclass(kw_only=True)
class Parsed:
    """A chunk's rows."""

    rows: list[Row] = field(default_factory=list)
    lines: int = 0
    """Lines or rows."""
    blank_lines: int = 0
    """Lines of white space only; they are not rows."""
    bytes: int = 0
    """Of JSON, line ends included."""


def parse(chunk: Chunk, path: Path) -> Parsed:
    """The rows of a chunk, good and bad."""
    if chunk.kind == "parquet":
        records = enumerate(parquet.records(chunk.payload), start=chunk.start.offset + 1)
        rows = [Row(0, number, record, error) for number, (record, error) in records]
        return Parsed(rows=rows, lines=len(rows))
    if chunk.kind == "values":
        rows = [_row_of(value) for value in chunk.payload]
        return Parsed(rows=rows, lines=len(rows), bytes=sum(len(value.text) for value in chunk.payload))
    return _parse_lines(chunk, path)


def _row_of(value: Value) -> Row:
    try:
        return Row(value.line, value.row, parse_line(value.text.encode("utf-8", errors="surrogateescape")))
    except DataError as error:
        return Row(value.line, value.row, None, error.messages[0])


def _parse_lines(chunk: Chunk, path: Path) -> Parsed:
    data = chunk.payload
    if data is None:
        with path.open("rb") as file:
            file.seek(chunk.start.offset)
            data = file.read(chunk.end.offset - chunk.start.offset)
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if chunk.start.offset == 0 and lines:
        lines[0] = lines[0].removeprefix(BOM)
    found = Parsed(lines=len(lines), bytes=len(data))
    for number, line in enumerate(lines, start=max(0, chunk.start.line) + 1):
        if not line or line.isspace():
            found.blank_lines += 1
            continue
        try:
            record = parse_line(line)
        except DataError as error:
            found.rows.append(Row(number, 0, None, error.messages[0]))
            continue
        if isinstance(record, list):
            found.rows += [Row(number, row, one) for row, one in enumerate(record, start=1)]
        else:
            found.rows.append(Row(number, 0, record))
    return found


def lines_before(start: ReadPosition, path: Path) -> int:
    """What to add to the lines of a chunk's rows; a plain file is only counted when a complaint needs it."""
    if start.line >= 0:
        return 0
    count, left = 0, start.offset
    with path.open("rb") as file:
        while left:
            block = file.read(min(left, 1 << 20))
            count += block.count(b"\n")
            left -= len(block)
    return count
