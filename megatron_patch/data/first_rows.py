"""Do files begin with conversations? Looked at before a start, so that it fails in the plan and not on the ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from megatron_patch.common.messages import Message
from megatron_patch.data import rows
from megatron_patch.data.columns import Columns, by_columns, columns_of
from megatron_patch.data.rows import Cut, Row
from megatron_patch.data.sft.formats import EmptyRow, MalformedRow, UnwantedRow, format_of, row_keys_of

MOST_ROWS = 100
MOST_BYTES = 1 << 18
"""Of a file that is read by lines."""
WHOLE = 1 << 22
"""Bytes of a file that may be read as a whole."""


def unusable(files: Iterable[Path]) -> Message | None:
    """Why none of the first rows of any of these files can be used.

    None where one can, and where it takes long to tell: of compressed files, Parquet, Arrow and large lists.

    Raises:
        DataError: a file whose rows cannot be told apart, or a dataset_info.json that cannot be followed.
    """
    reason = None
    for file in files:
        if not _is_quick(file):
            return None
        columns = columns_of(file)
        first = list(islice(_rows(file, columns), MOST_ROWS))
        for row in first:
            if (why := _why_not(row, columns)) is None:
                return None
            reason = reason or Message("raw-no-conversation", place=rows.place(file, row.line, row.row), why=why)
        if not first:
            return None
    return reason


def _is_quick(file: Path) -> bool:
    if file.suffix not in (".json", ".jsonl"):
        return False
    if file.stat().st_size <= WHOLE:
        return True
    with file.open("rb") as opened:
        line = opened.readline(MOST_BYTES)
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _rows(file: Path, columns: Columns | None) -> Iterator[Row]:
    cut = Cut(chunk_bytes=MOST_BYTES, row_keys=row_keys_of(columns.row if columns else None), numbered=True)
    for chunk in rows.chunks(0, file, cut):
        yield from rows.parse(chunk, file).rows


def _why_not(row: Row, columns: Columns | None) -> Message | None:
    """Nothing for a row that is empty or not wanted: the next one may be."""
    try:
        named, _ = by_columns(row, columns)
        format_of(named).convert(named.record)
    except MalformedRow as error:
        return error.messages[0]
    except RecursionError:
        return Message("row-too-deep")
    except (EmptyRow, UnwantedRow):
        pass
    return None
