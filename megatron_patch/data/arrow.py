"""Arrow files, as `datasets.save_to_disk` writes them: rows that equal those of the same data in JSON Lines.

Both of Arrow's layouts: the stream that `datasets` writes, and the file with a footer (Feather).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_patch.data.jsonl import DataError
from megatron_patch.data.parquet import check_columns

FOOTED = b"ARROW1"
"""What a file with a footer begins with; a stream begins with a length."""


def batches(path: Path, columns: list[str] | None, size: int, start: int) -> Iterator[tuple[int, Any, int]]:
    """As `parquet.batches`; a file is a shard as a whole, as a stream does not say how many rows it has.

    Raises:
        DataError: not a readable Arrow file, or without such columns.
    """
    import pyarrow  # type: ignore[import-untyped]

    try:
        with pyarrow.memory_map(str(path)) as file:
            schema, stored = _opened(file)
            check_columns(path, schema, columns)
            row = 0
            for batch in stored:
                chosen = batch.select(columns) if columns else batch
                at_once = max(1, int(size * batch.num_rows / max(1, batch.nbytes)))
                for first in range(max(0, start - row), batch.num_rows, at_once):
                    part = chosen.slice(first, at_once)
                    yield row + first, part, int(batch.nbytes * part.num_rows / batch.num_rows)
                row += batch.num_rows
    except pyarrow.ArrowException as error:
        raise DataError("data-arrow-unreadable", file=path, error=error) from None


def _opened(file: Any) -> tuple[Any, Iterator[Any]]:
    """The schema, and the batches as they were written."""
    import pyarrow.ipc  # type: ignore[import-untyped]

    footed = file.read(len(FOOTED)) == FOOTED
    file.seek(0)
    if not footed:
        stream = pyarrow.ipc.open_stream(file)
        return stream.schema, iter(stream)
    stored = pyarrow.ipc.open_file(file)
    return stored.schema, (stored.get_batch(number) for number in range(stored.num_record_batches))
