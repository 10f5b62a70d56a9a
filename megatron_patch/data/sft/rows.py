"""Files of conversations to chunks of rows, and each chunk to records, with their lines.

The parent cuts files into chunks (cheap), workers parse them. `.json` (one list, or JSON Lines after all: the first
character tells), `.jsonl`, both also as `.gz` and `.zst`, and `.parquet`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megatron_patch.data.compressed import ReadErrors, open_binary, plain_suffix
from megatron_patch.data.jsonl import DataError

SUFFIXES = (".json", ".jsonl", ".parquet")
CHUNK_BYTES = 1 << 19
"""Of text in one chunk: about a tenth of a second of one worker."""
PARQUET_ROWS = 512
"""Rows in one chunk of a Parquet file."""

_SPACE = re.compile(r"\s*")


class Chunk(NamedTuple):
    """Some rows of one file, unparsed."""

    file: int
    """Index into the list of files."""
    kind: str
    """`lines` (bytes, parsed line by line), `values` (JSON texts), `batch` (an Arrow record batch)."""
    lines: list[int]
    """Line of each row, from 1; for Parquet the number of the row; for `lines` that of the first alone."""
    payload: Any
    size: int
    """Bytes of the file that it stands for, for progress."""


def find_sources(paths: Sequence[str | Path]) -> list[Path]:
    """The files that these files and folders hold, folders sorted by path.

    Raises:
        DataError: every path that does not exist, has another suffix, or holds nothing, all in one go.
    """
    found: list[Path] = []
    wrong = []
    for path in map(Path, paths):
        inside = sorted(file for file in path.rglob("*") if _is_source(file)) if path.is_dir() else [path]
        if not path.exists():
            wrong.append(f"{path} does not exist")
        elif not inside or not _is_source(inside[0]):
            wrong.append(f"{path} is not, and does not hold, a file that ends in {', '.join(SUFFIXES)} (.gz, .zst)")
        found += inside
    if wrong:
        raise DataError("; ".join(wrong))
    return found


def _is_source(path: Path) -> bool:
    return path.is_file() and plain_suffix(path) in SUFFIXES


def read_chunks(files: Sequence[Path]) -> Iterator[Chunk]:
    """All rows of all files, in order.

    Raises:
        DataError: a JSON list that cannot be read to its end, or a damaged file; names file and line.
    """
    for number, path in enumerate(files):
        try:
            if plain_suffix(path) == ".parquet":
                yield from _parquet(number, path)
            elif _is_list(path):
                yield from _json_list(number, path)
            else:
                yield from _json_lines(number, path)
        except ReadErrors as error:
            raise DataError(f"{path} cannot be read to its end: {error}") from None


def _is_list(path: Path) -> bool:
    with open_binary(path) as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"[") and plain_suffix(path) == ".json"


def _json_lines(number: int, path: Path) -> Iterator[Chunk]:
    with open_binary(path) as file:
        first = 1
        while lines := file.readlines(CHUNK_BYTES):
            size = sum(map(len, lines))
            yield Chunk(number, "lines", [first], b"".join(lines), size)
            first += len(lines)


def _json_list(number: int, path: Path) -> Iterator[Chunk]:
    """The elements of one JSON list as texts: only their ends are found here."""
    with open_binary(path) as file:
        text = file.read().decode("utf-8-sig", errors="surrogateescape")
    scan, at, line, seen = json.JSONDecoder().raw_decode, text.index("[") + 1, 1, 0
    lines: list[int] = []
    values: list[str] = []
    size = 0
    while (at := _skip(text, at)) < len(text) and text[at] != "]":
        line, seen = line + text.count("\n", seen, at), at
        try:
            end = scan(text, at)[1]
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: bad JSON at column {error.colno}: {error.msg}") from None
        except RecursionError:
            raise DataError(f"{path}:{line}: JSON nested too deep") from None
        lines.append(line)
        values.append(text[at:end])
        size += end - at
        if size > CHUNK_BYTES:
            yield Chunk(number, "values", lines, values, size)
            lines, values, size = [], [], 0
        at = _after_comma(text, end, path)
    if text[at : at + 1] != "]":
        raise DataError(f"{path}: the list does not end: the file is cut off after row {len(values)} of its last part")
    if values:
        yield Chunk(number, "values", lines, values, size)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _after_comma(text: str, end: int, path: Path) -> int:
    end = _skip(text, end)
    if text[end : end + 1] == ",":
        return end + 1
    if text[end : end + 1] not in ("]", ""):
        line = text.count("\n", 0, end) + 1
        raise DataError(f"{path}:{line}: wanted a comma or the end of the list, found {text[end : end + 20]!r}")
    return end


def _parquet(number: int, path: Path) -> Iterator[Chunk]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            size = path.stat().st_size / max(1, file.metadata.num_rows)
            first = 1
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                lines = list(range(first, first + batch.num_rows))
                yield Chunk(number, "batch", lines, batch, int(size * batch.num_rows))
                first += batch.num_rows
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None


class Row(NamedTuple):
    """One parsed row: its record, or why there is none."""

    line: int
    record: Any
    error: str | None


def parse(chunk: Chunk) -> Iterator[Row]:
    """The rows of a chunk; blank lines between JSON Lines are no rows."""
    if chunk.kind == "batch":
        for line, record in zip(chunk.lines, chunk.payload.to_pylist(), strict=True):
            yield Row(line, record, None)
    elif chunk.kind == "values":
        for line, value in zip(chunk.lines, chunk.payload, strict=True):
            yield _parse_one(line, value.encode("utf-8", errors="surrogateescape"))
    else:
        for line, value in enumerate(chunk.payload.split(b"\n"), start=chunk.lines[0]):
            value = value.removeprefix(b"\xef\xbb\xbf") if line == 1 else value
            if value.strip():
                yield _parse_one(line, value)


def _parse_one(line: int, value: bytes) -> Row:
    try:
        return Row(line, json.loads(value.decode("utf-8")), None)  # given bytes, json would guess an encoding
    except UnicodeDecodeError as error:
        return Row(line, None, f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return Row(line, None, f"bad JSON at column {error.colno}: {error.msg}")
    except RecursionError:
        return Row(line, None, "JSON nested too deep")
