"""What the data on disk are taken for; broken idxmaps are told from whole ones without opening them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.data import first_rows
from megatron_patch.data.idxmap.reader import HEAD, MAGIC, count
from megatron_patch.launch.inputs import CorpusError, read_blend


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    return world


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("text", [(None, "text")]),
        ("text valid", [(None, "text"), (None, "valid")]),
        ("  text\n valid more ", [(None, "text"), (None, "valid"), (None, "more")]),
        ("0.3 text 0.7 valid", [(0.3, "text"), (0.7, "valid")]),
        ("30 text 70 with space", [(30.0, "text"), (70.0, "with space")]),
        ("with space", [(None, "with space")]),
        ("text with space $(touch pwned)", [(None, "text"), (None, "with space"), (None, "$(touch pwned)")]),
        ("./text", [(None, "text")]),
    ],
)
def test_each_spelling_of_a_blend_is_read(typed: str, expected: list[tuple[float | None, str]], here: Path) -> None:
    corpora = read_blend(typed, raw=False)
    assert [(one.weight, one.path) for one in corpora] == [(weight, str(here / name)) for weight, name in expected]
    assert all(one.tokens == 2000 for one in corpora)


def test_a_prefix_that_looks_like_a_weight(here: Path, tmp_path: Path, idxmap: Callable[..., Path]) -> None:
    idxmap(tmp_path / "0.5")
    assert [one.weight for one in read_blend(f"{tmp_path}/0.5 text", raw=False)] == [None, None]


def test_all_wrong_paths_are_named(here: Path) -> None:
    with pytest.raises(CorpusError, match=r"no such file: a\.bin, a\.idx; no such file: b\.bin, b\.idx"):
        read_blend("0.5 a 0.5 b", raw=False)


def test_empty_and_foreign_files_are_not_conversations(here: Path, tmp_path: Path) -> None:
    assert read_blend("chat.json", raw=True)[0].tokens is None
    for content, found in ((b"", "is empty"), (b"  \n", "is empty"), (b"PAR1", "not JSON")):
        (tmp_path / "data.json").write_bytes(content)
        for path in (tmp_path / "data.json", tmp_path):  # a file, and a folder with it
            with pytest.raises(CorpusError, match=found):
                read_blend(str(path), raw=True)
    (tmp_path / "data.txt").write_text("{}")
    with pytest.raises(CorpusError, match="ends in"):
        read_blend(str(tmp_path / "data.txt"), raw=True)
    with pytest.raises(CorpusError, match="unset MP_DATASET_TYPE"):
        read_blend("text", raw=True)


DOCUMENTS, LENGTH = 20, 100


UNKNOWN, CONVERSATION = ({"Question": "q", "Answer": "a"}, {"query": "q", "response": "a"})


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a.jsonl": [UNKNOWN] * 200}, r"a\.jsonl:1: no known format: its keys are 'Question', 'Answer'"),
        ({"a.json": [{"messages": [{"role": "robot", "content": "q"}]}]}, "message 1 has role 'robot'"),
        ({"a.jsonl": [{"prompt": "q", "chosen": "a", "rejected": "b"}]}, "answers to be compared"),
        ({"a.jsonl": [UNKNOWN] * 2, "b.jsonl": [UNKNOWN]}, "no known format"),
        ({"a.jsonl": [UNKNOWN] * 99 + [CONVERSATION]}, None),
        ({"a.jsonl": [UNKNOWN] * 2, "b.jsonl": [CONVERSATION]}, None),
        ({"a.jsonl": [{**CONVERSATION, "response": ""}]}, None),  # what is empty is counted when all are read
    ],
)
def test_files_without_conversations_are_refused_before_a_start(
    tmp_path: Path, files: dict[str, list[object]], says: str | None
) -> None:
    for name, rows in files.items():
        text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_text(text)
    if says is None:
        read_blend(str(tmp_path), raw=True)
        return
    with pytest.raises(CorpusError, match=says):
        read_blend(str(tmp_path), raw=True)


def test_a_large_list_is_left_to_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And large JSON Lines are not read beyond their first rows."""
    monkeypatch.setattr(first_rows, "WHOLE", 1000)
    (tmp_path / "list.json").write_text(json.dumps([UNKNOWN] * 100))
    read_blend(str(tmp_path / "list.json"), raw=True)
    (tmp_path / "lines.jsonl").write_text(f"{json.dumps(UNKNOWN)}\n" * 20_000)
    with pytest.raises(CorpusError, match="no known format"):
        read_blend(str(tmp_path / "lines.jsonl"), raw=True)


def cut_data(prefix: Path) -> None:
    data = prefix.with_name("text.bin").read_bytes()
    prefix.with_name("text.bin").write_bytes(data[:-4])


def lengthen_data(prefix: Path) -> None:
    with prefix.with_name("text.bin").open("ab") as file:
        file.write(b"\0")


def empty_data(prefix: Path) -> None:
    prefix.with_name("text.bin").write_bytes(b"")


def empty_index(prefix: Path) -> None:
    prefix.with_name("text.idx").write_bytes(b"")


def cut_header(prefix: Path) -> None:
    prefix.with_name("text.idx").write_bytes(prefix.with_name("text.idx").read_bytes()[: HEAD.size - 1])


def cut_index(prefix: Path) -> None:
    prefix.with_name("text.idx").write_bytes(prefix.with_name("text.idx").read_bytes()[:-8])


def other_magic(prefix: Path) -> None:
    index = prefix.with_name("text.idx").read_bytes()
    prefix.with_name("text.idx").write_bytes(b"X" + index[1:])


def float_tokens(prefix: Path) -> None:
    index = bytearray(prefix.with_name("text.idx").read_bytes())
    index[17] = 7
    prefix.with_name("text.idx").write_bytes(index)


def no_documents(prefix: Path) -> None:
    prefix.with_name("text.idx").write_bytes(HEAD.pack(MAGIC, 1, 4, 0, 1) + struct.pack("<q", 0))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut_data, "7996 bytes, its index says 8000"),
        (lengthen_data, "8001 bytes, its index says 8000"),
        (empty_data, r"\.bin is empty"),
        (empty_index, r"\.idx is empty"),
        (cut_header, "is cut"),
        (cut_index, "is damaged"),
        (other_magic, "not an index of Megatron's"),
        (float_tokens, "token type 7; known"),
        (no_documents, "is damaged"),
    ],
)
def test_damage_is_found(
    damage: Callable[[Path], None], found: str, tmp_path: Path, idxmap: Callable[..., Path]
) -> None:
    prefix = idxmap(tmp_path / "text")
    assert count(str(prefix)) == (DOCUMENTS * LENGTH, DOCUMENTS)
    damage(prefix)
    with pytest.raises(CorpusError, match=found):
        read_blend(str(prefix), raw=False)


def test_halves_of_two_data_sets(tmp_path: Path, idxmap: Callable[..., Path]) -> None:
    one, other = idxmap(tmp_path / "one"), idxmap(tmp_path / "other", documents=21)
    other.with_name("other.bin").replace(one.with_name("one.bin"))
    with pytest.raises(CorpusError, match="not from one run"):
        read_blend(str(one), raw=False)


def test_megatron_writes_what_is_read_here(tmp_path: Path) -> None:
    """The data tools of this repository write Megatron's format byte for byte: their idxmap is counted right."""
    import numpy

    from megatron_patch.data.idxmap.writer import IdxmapWriter

    with IdxmapWriter(tmp_path / "made", vocab_size=300) as writer:
        for length in (5, 1, 17):
            writer.add_document(numpy.arange(length))
    assert count(str(tmp_path / "made"))[0] == 23
