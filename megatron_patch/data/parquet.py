"""Parquet as records that equal those of the same rows in JSON Lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_patch.common.messages import Message
from megatron_patch.data.jsonl import DataError

MOST_ROWS = 10_000
"""Of one batch."""
ParsedRow = tuple[Any, Message | None]
"""A record, or why there is none."""


def batches(
    path: Path, columns: list[str] | None, size: int, start: int, part: tuple[float, float]
) -> Iterator[tuple[int, Any, int]]:
    """Record batches: the number of rows before each, the batch, the bytes of the file that it stands for.

    Args:
        columns: None for all.
        size: bytes of a batch, decompressed, about.
        start: rows that are left out.
        part: shares of the rows, 0 to 1, at which the shard begins and ends.
    Raises:
        DataError: not a readable Parquet file, or without such columns.
    """
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_columns(path, file.schema_arrow, columns)
            rows = file.metadata.num_rows
            first, last = max(start, -int(-rows * part[0] // 1)), -int(-rows * part[1] // 1)
            groups = range(file.metadata.num_row_groups)
            inflated = sum(file.metadata.row_group(group).total_byte_size for group in groups) / max(1, rows)
            at_once = min(MOST_ROWS, max(1, int(size / max(1, inflated))))
            row, per_row = 0, path.stat().st_size / max(1, rows)
            for batch in file.iter_batches(batch_size=at_once, columns=columns):
                begin, end = max(first, row), min(last, row + batch.num_rows)
                if begin < end:
                    yield begin, batch.slice(begin - row, end - begin), int(per_row * (end - begin))
                row += batch.num_rows
    except pyarrow.ArrowException as error:
        raise DataError("data-parquet-unreadable", file=path, error=error) from None


def check_columns(path: Path, schema: Any, columns: list[str] | None) -> None:
    """Columns that are asked for by name hold text."""
    for column in columns or []:
        if column not in schema.names:
            raise DataError("data-no-column", file=path, column=repr(column), columns=schema.names)
        kind = schema.field(column).type
        kind = getattr(kind, "value_type", kind)  # of a dictionary
        if str(kind) not in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view"):
            raise DataError("data-column-type", file=path, column=repr(column), type=schema.field(column).type)


def records(batch: Any) -> Iterator[ParsedRow]:
    """Each row of a batch. One that cannot be read harms no other."""
    maps = {"maps_as_pydicts": "strict"} if "map<" in str(batch.schema) else {}  # twice as slow with it
    try:
        found = batch.to_pylist(**maps)
    except (ValueError, OverflowError, KeyError, TypeError):
        found = None
    if found is not None and not any(map(_needs_care, batch.columns)):
        yield from ((record, None) for record in found)
        return
    for number in range(batch.num_rows):
        try:
            record = found[number] if found else batch.slice(number, 1).to_pylist(**maps)[0]
            yield {name: _plain(value) for name, value in record.items()}, None
        except UnicodeDecodeError as error:
            yield None, Message("row-value-not-utf-8", byte=error.start + 1)
        except (ValueError, OverflowError, KeyError, TypeError) as error:
            yield None, Message("row-value-unreadable", error=error)


def _needs_care(column: Any) -> bool:
    """Whether `_plain` may change something in it: a field without a value, or bytes."""
    import pyarrow

    if "binary" in str(column.type):
        return True
    if not pyarrow.types.is_nested(column.type):
        return False
    if pyarrow.types.is_struct(column.type):
        return any(field.null_count or _needs_care(field) for field in column.flatten())
    return pyarrow.types.is_map(column.type) or _needs_care(column.flatten())


def _plain(value: Any) -> Any:
    """As JSON has it: binary columns are text, and the fields that a row's object does not have are none.

    A column of objects has the fields of all rows, null in those that lack them. A null that was written is lost.
    """
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.decode() if isinstance(value, bytes) else value
