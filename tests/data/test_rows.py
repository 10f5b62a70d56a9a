"""Every kind of file gives the same rows, with the right places; pretraining and SFT read the same; damage is named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_patch.common.messages import Message, Wording
from megatron_patch.data import corpus as corpus_module
from megatron_patch.data import rows
from megatron_patch.data.corpus import TextCorpus, find_corpus, read
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.rows import Cut, ReadPosition
from megatron_patch.data.sources import find_sources, left_out

RECORDS = [{"text": f"q{i} 北京", "more": "a\nb" * i} for i in range(40)]
TEXTS = [record["text"] for record in RECORDS]
KEYS = ("text", "instruction")


def as_sft(*paths: Path) -> list[rows.Row]:
    cut = Cut(chunk_bytes=300, row_keys=KEYS, numbered=True)
    found = []
    for number, path in enumerate(paths):
        for chunk in rows.chunks(number, path, cut):
            assert chunk.start.file == number
            found += rows.parse(chunk, path).rows
    return found


def as_corpus(*paths: Path, shards: int = 1) -> list[str]:
    found = []
    for shard in range(shards):
        corpus = TextCorpus(files=list(paths), key="text", shard=shard, shards=shards)
        for chunk in corpus.chunks(ReadPosition()):
            found += read(chunk, paths[chunk.start.file], "text").texts
    return found


TWICE = b'{"text": "first", "text": "second"}'


@pytest.mark.parametrize(
    ("content", "line", "row"),
    [
        (b'{"text": "a"}\n' + TWICE + b'\n{"text": "b"}\n', 2, 0),
        (b'{"text": "a"}\n{"text": "b", "meta": [{"k": 1, "k": 1}]}\n{"text": "b"}\n', 2, 0),
        (b'[{"text": "a"},\n' + TWICE + b',\n{"text": "b"}]', 2, 2),
    ],
)
def test_a_key_twice_in_a_row_is_malformed(tmp_path: Path, content: bytes, line: int, row: int) -> None:
    """Python's reader would take the last; pretraining ends there, finetuning counts the row."""
    file = tmp_path / "data.json"
    file.write_bytes(content)
    found = as_sft(file)
    assert [one.record["text"] for one in found if one.error is None] == ["a", "b"]
    (wrong,) = [one for one in found if one.error is not None]
    assert (wrong.error.code, wrong.line, wrong.row) == ("json-double-key", line, row)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="twice in one JSON object"):
        as_corpus(file)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "CHUNK_BYTES", 300)


def lines_of(records: list[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def dumped(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=indent).encode()


LINES = lines_of(RECORDS)
FORMS = {
    "lines": LINES,
    "lines without an end": LINES.rstrip(),
    "BOM": b"\xef\xbb\xbf" + LINES,
    "CRLF": LINES.replace(b"\n", b"\r\n"),
    "CR": LINES.replace(b"\n", b"\r"),
    "blank lines": b"\n \n" + LINES.replace(b"\n", b"\n\t\n\n"),
    "a list": dumped(RECORDS),
    "a list with BOM": b"\xef\xbb\xbf\n" + dumped(RECORDS),
    "a list over lines": dumped(RECORDS, 2),
    "a list, a row a line": b"[\n" + b",\n".join(dumped(record) for record in RECORDS) + b"\n]\n",
    "two lists": dumped(RECORDS[:3]) + b"\n" + dumped(RECORDS[3:]) + b"\n",
    "two lists on a line": dumped(RECORDS[:3]) + dumped(RECORDS[3:]),
    "two lists over lines": dumped(RECORDS[:3], 2) + b"\n" + dumped(RECORDS[3:], 2),
    "a list, then lines": dumped(RECORDS[:3]) + b"\n" + lines_of(RECORDS[3:]),
    "a list over lines, then lines": dumped(RECORDS[:3], 1) + b"\n" + lines_of(RECORDS[3:]),
    "lines, then a list": lines_of(RECORDS[:3]) + dumped(RECORDS[3:]),
    "a list a line": lines_of([RECORDS[start : start + 4] for start in range(0, 40, 4)]),
    "empty lists": b"[]\n" + lines_of([RECORDS[:20], [], RECORDS[20:]]),
    "objects over lines": b"\n".join(dumped(record, 2) for record in RECORDS),
    "objects on a line": b" ".join(dumped(record) for record in RECORDS),
    "data": dumped({"version": "1", "data": RECORDS}),
    "data over lines": dumped({"info": {"rows": 40}, "rows": RECORDS}, 4),
}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "jsonl.gz", "json.zst"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_under_every_name(tmp_path: Path, form: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    packed = {"gz": gzip.compress, "zst": zstandard.compress}.get(path.suffix[1:], bytes)(FORMS[form])
    path.write_bytes(packed)
    found = as_sft(path)
    assert [row.record for row in found] == RECORDS and not any(row.error for row in found)
    assert as_corpus(path) == as_corpus(path, shards=3) == TEXTS


@pytest.mark.parametrize("form", FORMS)
def test_each_row_knows_its_place(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(FORMS[form])
    places = [(row.line, row.row) for row in as_sft(path)]
    assert len(set(places)) == len(places), "each place once"
    lines = FORMS[form].split(b"\n")
    for (line, _), record in zip(places, RECORDS, strict=True):
        assert b"{" in lines[line - 1]
        rest = b"\n".join(lines[line - 1 :])
        assert dumped(record["text"]) in rest
    if form == "a list":
        assert places == [(1, row) for row in range(1, 41)]


@pytest.mark.parametrize("form", FORMS)
def test_work_can_be_taken_up_behind_any_chunk(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(FORMS[form])
    corpus, done = TextCorpus(files=[path], key="text"), 0
    chunks = list(corpus.chunks(ReadPosition()))
    assert len(chunks) > 1 or form in ("two lists", "lines, then a list")  # a line is not cut
    for chunk in chunks:
        done += len(read(chunk, path, "text").texts)
        rest = [text for later in corpus.chunks(chunk.end) for text in read(later, path, "text").texts]
        assert rest == TEXTS[done:]


BAD = {
    b'{"text": \n': "bad JSON at column 10: Expecting value",
    b'{"text": "a"} x\n': "bad JSON at column 15: Extra data",
    b"\xff\xfe\n": "not UTF-8 at byte 1 of the line",
    b'{"text": "a", "n": 1' + b"1" * 4300 + b"}\n": "an integer of more than 4300 digits; wanted fewer",
    b"[" * 200_000 + b"]" * 200_000 + b"\n": "JSON nested too deep",
}


@pytest.mark.parametrize("bad", BAD, ids=BAD.values())
@pytest.mark.parametrize("at", [0, 20, 40])
def test_a_bad_line_harms_no_other(tmp_path: Path, bad: bytes, at: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines_of(RECORDS[:at]) + bad + lines_of(RECORDS[at:]))
    if at == 0 and bad.startswith(b"\xff"):
        with pytest.raises(DataError, match="UTF-16; wanted UTF-8"):
            as_sft(path)
        return
    found = as_sft(path)
    assert [row.record for row in found if row.error is None] == RECORDS
    assert [(row.line, str(row.error)) for row in found if row.error] == [(at + 1, BAD[bad])]
    with pytest.raises(DataError, match=rf"a\.jsonl:{at + 1}: {BAD[bad][:20]}"):
        as_corpus(path)


@pytest.mark.parametrize("bad", list(BAD)[3:], ids=list(BAD.values())[3:])
def test_a_bad_element_harms_no_other(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b",".join([*map(dumped, RECORDS[:7]), bad.strip(), *map(dumped, RECORDS[7:])]) + b"]")
    found = as_sft(path)
    assert [row.record for row in found if row.error is None] == RECORDS
    assert [(*row[:2], str(row.error)) for row in found if row.error] == [(1, 8, BAD[bad])]
    with pytest.raises(DataError, match=rf"a\.json:1: row 8: {BAD[bad][:20]}"):
        as_corpus(path)


def test_nan_is_read_where_nobody_looks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "score": NaN}\n{"text": "b", "score": -Infinity}\n')
    assert as_corpus(path) == ["a", "b"]
    path.write_text('{"text": NaN}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: the value of 'text' is a JSON number; wanted a string"):
        as_corpus(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b'[\n{"a": 1},\n{"a": }\n]', r"a\.json:3: row 2: bad JSON at column 7"),
        ("a.json", b'[{"a": 1}\n{"a": 2}]', r"a\.json:2: wanted a comma or the end of the list"),
        ("a.json", b'[{"a": 1},', r"a\.json:1: row 1: the list does not end behind this row"),
        ("a.json", b'[{"a": 1}', "the list does not end"),
        ("a.json", b'[\n{"a": 1}\n]\nmore\n', r"a\.json:4: row 2: bad JSON at column 1"),
        ("a.json", b'{"train": [{"text": "a"}], "test": [{"text": "b"}]}', r"several lists of rows \(train, test\)"),
        ("a.json", "[]".encode("utf-16"), r"is UTF-16; wanted UTF-8: `iconv"),
        ("a.jsonl.gz", gzip.compress(LINES)[:-20], "cannot be read to its end"),
        ("a.jsonl.gz", gzip.compress(LINES)[:50] + b"\xff" * 50 + gzip.compress(LINES)[100:], "cannot be read to its"),
        ("a.jsonl.zst", zstandard.compress(LINES)[:-1], "cannot be read to its end.*cut off"),
        ("a.jsonl.zst", b"no such format", "cannot be read to its end"),
        ("a.parquet", b"PAR1 not really", "not a readable Parquet file"),
    ],
)
def test_damaged_files_are_errors(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    for reader in (as_sft, as_corpus):
        with pytest.raises(DataError, match=says):
            reader(tmp_path / name)


def test_a_long_window(tmp_path: Path) -> None:
    """`zstd --long=30` and its like: the library alone refuses more than 128 MiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(packed.compress(LINES) + packed.flush())
    assert as_corpus(path) == TEXTS
    with pytest.raises(zstandard.ZstdError, match="too much memory"):
        zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())


CONTENT = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
STRUCT = pa.struct([("role", pa.string()), ("content", pa.string())])
COLUMNS = {
    "string": pa.array(TEXTS),
    "large": pa.array(TEXTS, pa.large_string()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "view": pa.array(TEXTS, pa.string_view()),
    "binary": pa.array([text.encode() for text in TEXTS]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_text(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(40), "text": COLUMNS[kind]}), path, row_group_size=16)
    assert as_corpus(path) == as_corpus(path, shards=3) == TEXTS
    assert [(row.line, row.row, row.record) for row in as_sft(path)] == [
        (0, i + 1, {"n": i, "text": text}) for i, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([CONTENT] * 4),
        pa.array([CONTENT] * 4, pa.large_list(STRUCT)),
        pa.array([CONTENT] * 4, pa.list_(STRUCT, 2)),
        pa.array([[list(message.items()) for message in CONTENT]] * 4, pa.list_(pa.map_(pa.string(), pa.string()))),
    ],
    ids=lambda column: str(column.type)[:20],
)
def test_columns_of_messages(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"messages": column}), tmp_path / "a.parquet")
    assert [row.record for row in as_sft(tmp_path / "a.parquet")] == [{"messages": CONTENT}] * 4


def test_a_value_that_is_not_utf8_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([b"one", b"\xff", b"three"])}), path)
    found = as_sft(path)
    assert [(row.row, row.error) for row in found] == [
        (1, None),
        (2, Message("row-value-not-utf-8", byte=1)),
        (3, None),
    ]
    with pytest.raises(DataError, match=r"a\.parquet: row 2: not UTF-8"):
        as_corpus(path)


def test_fields_that_only_other_rows_have_are_not_there(tmp_path: Path) -> None:
    records = [{"messages": [{"a": 1, "call": {"x": 1}}]}, {"messages": [{"b": [None, 2], "call": {"y": 2}}]}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    assert [row.record for row in as_sft(tmp_path / "a.parquet")] == records


def test_hidden_folders_and_links(tmp_path: Path) -> None:
    folder = tmp_path / ".hidden" / "data"  # only what is hidden below the folder is left out
    for name in ("a.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", "sub/.cache/b.jsonl", "sub/._b.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(LINES)
    (tmp_path / "blob").write_bytes(lines_of([{"text": "linked"}]))
    (folder / "sub" / "b.jsonl").symlink_to(tmp_path / "blob")
    assert find_sources([folder]) == find_corpus(folder) == [folder / "a.jsonl", folder / "sub" / "b.jsonl"]
    assert as_corpus(*find_corpus(folder)) == [*TEXTS, "linked"]


def test_all_missing_paths_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError) as error:
        find_sources([tmp_path / "none", tmp_path / "empty", tmp_path / "notes.txt"])
    assert str(error.value).count(";") == 2
    assert f"no such file: {tmp_path}/none" in str(error.value) and "notes.txt is not" in str(error.value)


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path) -> None:
    for name in ("a.jsonl", ".b.jsonl", "sub/.cache/b.jsonl", "sub/c.csv", "README.md", ".git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list(map(str, left_out(tmp_path))) == [
        f"2 hidden files in {tmp_path} are not read: .b.jsonl, sub/.cache/b.jsonl",
        f"2 files in {tmp_path} are not read, by the name not data: README.md, sub/c.csv",
    ]
    assert left_out(tmp_path / "a.jsonl") == []
    for number in range(9):
        (tmp_path / "sub" / f"{number}.txt").write_text("x")
    assert str(left_out(tmp_path)[1]).endswith("README.md, sub/0.txt, sub/1.txt, ...")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(LINES), "is compressed with gzip: its name has to end in .gz"),
        (zstandard.compress(LINES), "is compressed with Zstandard: its name has to end in .zst"),
        (lzma.compress(LINES), "is compressed with xz, which is not read: `xz -dk` unpacks it"),
        (bz2.compress(LINES), "is compressed with bzip2, which is not read: `bzip2 -dk` unpacks it"),
        (b"PK\x03\x04 and more", "is a ZIP archive"),
        (b"PAR1 and more", "is a Parquet file: its name has to end in .parquet"),
        (LINES.decode().encode("utf-16-le"), "has NUL bytes where it begins: UTF-16"),
    ],
)
def test_what_a_file_is_in_truth(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    for reader in (as_sft, as_corpus):
        with pytest.raises(DataError, match=re.escape(f"{tmp_path}/a.jsonl {says}")):
            reader(tmp_path / "a.jsonl")


def test_a_line_of_another_form_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('instruction;output\n"Add";4\n')
    assert [str(row.error) for row in as_sft(tmp_path / "a.jsonl")] == [
        "not JSON: it begins with 'instruction;output'; wanted an object, {...}",
        "not JSON: it begins with '\"Add\";4'; wanted an object, {...}",
    ]


def test_a_gzip_file_is_refused_in_chinese(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(LINES))
    with pytest.raises(DataError) as error:
        as_corpus(tmp_path / "a.jsonl")
    assert error.value.code == "data-gzip"
    assert Wording(language="zh").text(error.value.messages[0]) == (
        f"{tmp_path}/a.jsonl 是 gzip 压缩文件：文件名必须以 .gz 结尾"
    )
