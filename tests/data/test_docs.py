"""docs/data.md and data.zh-CN.md say what the readers do: each of their examples is fed to them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from megatron_patch.common.messages import Message, Wording
from megatron_patch.data import rows
from megatron_patch.data.corpus import TextCorpus, read
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.rows import Cut, ReadPosition
from megatron_patch.data.sft.formats import EmptyRow, MalformedRow, UnwantedRow, describe, recognise

DOCS = Path(__file__).resolve().parents[2] / "docs"
ENGLISH = {word: word for word in ("rows", "used", "refused", "bad row", "lost")}
CHINESE = {"行": "rows", "使用": "used", "拒绝": "refused", "坏行": "bad row", "丢弃": "lost"}


class Line(NamedTuple):
    """A row of a page's tables."""

    language: str
    what: str
    example: str
    result: str
    """`used`, `lost`, `refused`, `bad row`, or `2 rows`."""
    says: str
    """A part of what is said, in the page's language."""


def lines_of(page: str, language: str, words: dict[str, str]) -> list[Line]:
    """In their order."""
    found = re.findall(r"^\| ([^|]+) \| `([^|]+)` \| ([^|]+) \|$", (DOCS / page).read_text("utf-8"), re.MULTILINE)
    lines = []
    for what, example, told in found:
        result, _, says = told.partition(": ")
        count, _, word = result.rpartition(" ") if result[0].isdigit() else ("", "", result)
        lines.append(Line(language, what, example, f"{count} {words[word]}".strip(), says))
    return lines


PAGES = {"en": lines_of("data.md", "en", ENGLISH), "zh": lines_of("data.zh-CN.md", "zh", CHINESE)}
LINES = [line for page in PAGES.values() for line in page]
CONVERSATIONS = [line for line in LINES if line.result in ("used", "lost")]
FILES = [line for line in LINES if line not in CONVERSATIONS]


def said(messages: tuple[Message, ...], language: str) -> str:
    return "\n".join(map(Wording(language=language).text, messages))


def texts(path: Path) -> list[str]:
    corpus = TextCorpus(files=[path], key="text")
    return [text for chunk in corpus.chunks(ReadPosition()) for text in read(chunk, path, "text").texts]


@pytest.mark.parametrize("line", FILES, ids=[f"{line.language} {line.what}" for line in FILES])
def test_each_file_of_the_page_is_read_or_refused_as_it_says(line: Line, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(line.example.replace("⏎", "\n"), encoding="utf-8")
    if line.result not in ("refused", "bad row"):
        assert texts(path) == ["a", "b", "c"][: int(line.result.split()[0])]
        return
    with pytest.raises(DataError) as error:
        texts(path)
    assert line.says in said(error.value.messages, line.language)
    cut = Cut(chunk_bytes=100, row_keys=("text",), numbered=True)
    if line.result == "refused":
        with pytest.raises(DataError) as error:
            list(rows.chunks(0, path, cut))
        assert line.says in said(error.value.messages, line.language)
    else:
        assert all(rows.parse(chunk, path).rows for chunk in rows.chunks(0, path, cut))


@pytest.mark.parametrize("line", CONVERSATIONS, ids=[f"{line.language} {line.what}" for line in CONVERSATIONS])
def test_each_conversation_of_the_page_is_used_or_refused_as_it_says(line: Line) -> None:
    record = json.loads(line.example)
    kind = recognise(record)
    if line.result == "used":
        assert kind is not None
        assert kind.convert(record).messages[-1]["role"] == "assistant"
        return
    if kind is None:
        messages: tuple[Message, ...] = (describe(record),)
    else:
        with pytest.raises((MalformedRow, EmptyRow, UnwantedRow)) as error:
            kind.convert(record)
        messages = error.value.messages
    assert line.says in said(messages, line.language)


def test_the_page_has_them_all() -> None:
    assert len(FILES) == 2 * 16 and len(CONVERSATIONS) == 2 * 31


def test_the_chinese_page_has_the_same_examples() -> None:
    english, chinese = ([(line.example, line.result) for line in page] for page in PAGES.values())
    assert chinese == english
