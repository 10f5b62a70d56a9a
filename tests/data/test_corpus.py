"""Any cut of a corpus, in every form of input: the same texts, and complaints that name their line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from megatron_patch.data.corpus import TextCorpus, find_corpus, read
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.rows import ReadPosition

from .mixed import TEXTS, json_lines, write_parquet


def texts_of(corpus: TextCorpus, start: ReadPosition | None = None) -> list[str]:
    found = []
    for chunk in corpus.chunks(start or ReadPosition()):
        found += read(chunk, corpus.files[chunk.start.file], corpus.key).texts
    return found


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 50])
def test_shards_are_the_whole_in_order(folder: Path, small_chunks: None, shards: int) -> None:
    files = find_corpus(folder)
    parts = [texts_of(TextCorpus(files=files, key="text", shard=i, shards=shards)) for i in range(shards)]
    assert [text for part in parts for text in part] == TEXTS
    if shards <= 3:
        assert all(parts)


def test_work_can_be_taken_up_behind_any_chunk(folder: Path, small_chunks: None) -> None:
    for shard, shards in ((0, 1), (1, 3)):
        corpus = TextCorpus(files=find_corpus(folder), key="text", shard=shard, shards=shards)
        whole, done = texts_of(corpus), 0
        chunks = list(corpus.chunks(ReadPosition()))
        assert len(chunks) > 5
        for chunk in chunks:
            done += len(read(chunk, corpus.files[chunk.start.file], "text").texts)
            assert texts_of(corpus, chunk.end) == whole[done:]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_complaints_name_the_line_wherever_the_cut_is(tmp_path: Path, small_chunks: None, suffix: str) -> None:
    lines = json_lines(TEXTS).splitlines(keepends=True)
    lines[333] = b'{"text": \n'
    data, path = b"".join(lines), tmp_path / f"a.{suffix}"
    packed = {"jsonl": data, "jsonl.gz": gzip.compress(data), "jsonl.zst": zstandard.compress(data)}
    path.write_bytes(packed[suffix])
    for shard in range(3):
        corpus = TextCorpus(files=[path], key="text", shard=shard, shards=3)
        if shard == (2 if suffix == "jsonl" else 0):
            with pytest.raises(DataError, match=r":334: bad JSON at column 10"):
                texts_of(corpus)
        else:
            texts_of(corpus)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", gzip.compress(json_lines(TEXTS))[:-9], "cannot be read to its end"),
        ("a.jsonl.zst", zstandard.compress(json_lines(TEXTS))[:-1], "cannot be read to its end.*cut off"),
        ("a.parquet", b"PAR1", "not a readable Parquet file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        texts_of(TextCorpus(files=[tmp_path / name], key="text"))


def test_a_parquet_column_must_be_there_and_hold_text(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", None])
    for key, says in (
        ("body", "no column 'body'; its columns: n, text"),
        ("n", "column 'n' holds int64; wanted string"),
        ("text", "row 2: the value of 'text' is a JSON null; wanted a string"),
    ):
        with pytest.raises(DataError, match=says):
            texts_of(TextCorpus(files=[tmp_path / "a.parquet"], key=key))
