"""docs/data.md says what the readers do: each of its examples is fed to them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from megatron_patch.data import rows
from megatron_patch.data.corpus import Corpus, read
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.rows import Cut, Position
from megatron_patch.data.sft.formats import EmptyRow, MalformedRow, describe, recognise

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
LINES = re.findall(r"^\| ([^|]+) \| `([^|]+)` \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
CONVERSATIONS = [line for line in LINES if line[2] == "used" or line[2].startswith("lost: ")]
FILES = [line for line in LINES if line not in CONVERSATIONS]


def texts(path: Path) -> list[str]:
    corpus = Corpus(files=[path], key="text")
    return [text for chunk in corpus.chunks(Position()) for text in read(chunk, path, "text").texts]


@pytest.mark.parametrize(("what", "example", "result"), FILES, ids=[line[0] for line in FILES])
def test_files(what: str, example: str, result: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(example.replace("⏎", "\n"), encoding="utf-8")
    kind, _, says = result.partition(": ")
    if kind not in ("refused", "bad row"):
        assert texts(path) == ["a", "b", "c"][: int(result.split()[0])]
        return
    with pytest.raises(DataError, match=re.escape(says)):
        texts(path)
    cut = Cut(chunk_bytes=100, row_keys=("text",), numbered=True)
    if kind == "refused":
        with pytest.raises(DataError, match=re.escape(says)):
            list(rows.chunks(0, path, cut))
    else:
        assert all(rows.parse(chunk, path).rows for chunk in rows.chunks(0, path, cut))


@pytest.mark.parametrize(("what", "example", "result"), CONVERSATIONS, ids=[line[0] for line in CONVERSATIONS])
def test_conversations(what: str, example: str, result: str) -> None:
    record = json.loads(example)
    kind = recognise(record)
    if result == "used":
        assert kind is not None
        assert kind.convert(record).messages[-1]["role"] == "assistant"
        return
    if kind is None:
        said = str(describe(record))
    else:
        with pytest.raises((MalformedRow, EmptyRow)) as error:
            kind.convert(record)
        said = str(error.value)
    assert result.removeprefix("lost: ") in said


def test_the_page_has_them_all() -> None:
    assert len(FILES) == 16 and len(CONVERSATIONS) == 24


def test_the_chinese_page_has_the_same_examples() -> None:
    page = PAGE.with_name("data.zh-CN.md").read_text(encoding="utf-8")
    words = {"行": "rows", "使用": "used", "拒绝": "refused", "坏行": "bad row", "丢弃": "lost"}
    found = re.findall(r"^\| ([^|]+) \| `([^|]+)` \| ([^|]+) \|$", page, re.MULTILINE)
    results = [
        re.sub("坏行|行|使用|拒绝|丢弃", lambda match: words[match[0]], result, count=1) for _, _, result in found
    ]
    assert [(example, result) for (_, example, _), result in zip(found, results, strict=True)] == [
        (example, result) for _, example, result in LINES
    ]
