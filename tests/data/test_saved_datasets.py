"""Folders that Hugging Face's `datasets` has written: read as the same rows in JSON Lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest

from megatron_patch.data import rows
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.rows import Cut
from megatron_patch.data.sources import find_sources, left_out

ROWS: list[dict[str, Any]] = [{"text": f"row {number} 北京", "tags": [{"name": str(number)}]} for number in range(2500)]


def read(path: Path, chunk_bytes: int = 20_000, columns: list[str] | None = None) -> list[Any]:
    cut = Cut(chunk_bytes=chunk_bytes, row_keys=("text",), columns=columns)
    found = [
        row
        for file in find_sources([path])
        for chunk in rows.chunks(0, file, cut)
        for row in rows.parse(chunk, file).rows
    ]
    assert [row.row for row in found] == list(range(1, len(found) + 1))
    return [row.record for row in found]


def test_a_saved_dataset_is_its_rows_once(tmp_path: Path) -> None:
    """In chunks, without what is said about it, and without the copy that `map` has left beside it."""
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "saved"))
    datasets.load_from_disk(str(tmp_path / "saved")).map(lambda row: {"text": row["text"].upper()})
    assert list((tmp_path / "saved").glob("cache-*.arrow"))
    assert read(tmp_path / "saved") == ROWS
    assert read(tmp_path / "saved", columns=["text"]) == [{"text": row["text"]} for row in ROWS]
    (said,) = left_out(tmp_path / "saved")
    assert said.code == "left-out-other" and said.values["files"] == 3


def test_work_is_taken_up_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path))
    (file,) = find_sources([tmp_path])
    cut = Cut(chunk_bytes=20_000, row_keys=("text",))
    first, *rest = rows.chunks(0, file, cut)
    assert len(rest) > 3
    again = [row.record for chunk in rows.chunks(0, file, cut, first.end) for row in rows.parse(chunk, file).rows]
    assert again == ROWS[first.end.offset :]
    halves = [list(rows.chunks(0, file, cut, part=part)) for part in ((0, 0.5), (0.5, 1))]
    assert sum(chunk.end.offset - chunk.start.offset for half in halves for chunk in half) == len(ROWS)


def test_a_file_with_a_footer(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=700)
    assert read(tmp_path / "a.arrow") == ROWS


def test_a_saved_datasetdict_has_to_be_named_by_split(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS[:3])
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path))
    with pytest.raises(DataError, match=rf"the splits train, test; wanted one of them, as {tmp_path}/train"):
        find_sources([tmp_path])
    assert read(tmp_path / "test") == ROWS[:3]


@pytest.mark.parametrize("content", [b"", b"ARROW1 and no more", b"text"])
def test_what_is_not_arrow_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.arrow").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.arrow is not a readable Arrow file"):
        read(tmp_path / "a.arrow")


def test_files_of_several_splits_in_one_folder_are_said(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "trainer.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert left_out(tmp_path) == []
    (tmp_path / "test-00000-of-00001.jsonl").write_text("{}\n")
    (said,) = left_out(tmp_path)
    assert said.code == "all-splits-read" and said.values["splits"] == ["test", "train"]
