"""Every kind of file gives the same rows, with the right lines; damaged ones are named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft import rows
from megatron_patch.data.sft.rows import find_sources, parse, read_chunks

RECORDS = [{"instruction": f"q{i} 北京", "output": "a\nb" * i} for i in range(40)]


def read(*paths: Path) -> list[tuple[int, int, Any, str | None]]:
    return [(chunk.file, *row) for chunk in read_chunks(list(paths)) for row in parse(chunk)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK_BYTES", 300)
    monkeypatch.setattr(rows, "PARQUET_ROWS", 7)


def lines_of(records: list[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def test_json_lines_plain_and_compressed(tmp_path: Path) -> None:
    data = lines_of(RECORDS)
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(data[:500]) + zstandard.compress(data[500:]))
    (tmp_path / "d.json").write_bytes(data)  # JSON Lines under the other name
    found = read(*find_sources([tmp_path]))
    assert found == [(file, i + 1, record, None) for file in range(4) for i, record in enumerate(RECORDS)]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_lists_know_the_line_of_each_element(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(RECORDS, ensure_ascii=False, indent=indent), encoding="utf-8-sig")
    found = read(path)
    assert [record for _, _, record, _ in found] == RECORDS
    text = path.read_text(encoding="utf-8-sig").split("\n")
    for _, line, record, _ in found:
        assert text[line - 1].strip().startswith("{" if indent else "[{")
        assert indent is None or json.loads(text[line].strip().partition(": ")[2].rstrip(",")) == record["instruction"]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(RECORDS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=16)
    assert read(tmp_path / "a.parquet") == [(0, i + 1, record, None) for i, record in enumerate(RECORDS)]


def test_bad_lines_are_rows_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": \n\xff\xfe\n[1]\n{"a": 2}')
    assert read(path) == [
        (0, 1, {"a": 1}, None),
        (0, 4, None, "bad JSON at column 7: Expecting value"),
        (0, 5, None, "not UTF-8 at byte 1"),
        (0, 6, [1], None),
        (0, 7, {"a": 2}, None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b'[\n{"a": 1},\n{"a": }\n]', r"a\.json:3: bad JSON at column 7"),
        ("a.json", b'[{"a": 1}\n{"a": 2}]', r"a\.json:2: wanted a comma or the end of the list"),
        ("a.json", b'[{"a": 1},', "the list does not end"),
        ("a.json", b'[{"a": 1}', "the list does not end"),
        ("a.jsonl.gz", gzip.compress(lines_of(RECORDS))[:-20], "cannot be read to its end"),
        ("a.jsonl.zst", zstandard.compress(lines_of(RECORDS))[:-1], "cannot be read to its end.*cut off"),
        ("a.jsonl.zst", b"no such format", "cannot be read to its end"),
        ("a.parquet", b"PAR1 not really", "not a readable Parquet file"),
    ],
)
def test_damaged_files_are_errors(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        read(tmp_path / name)


def test_all_missing_paths_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError) as error:
        find_sources([tmp_path / "none", tmp_path / "empty", tmp_path / "notes.txt"])
    assert str(error.value).count(";") == 2
    assert "none does not exist" in str(error.value) and "notes.txt is not" in str(error.value)
