"""LLaMA-Factory's dataset_info.json beside the data says which columns there are; what is trained is what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.data.columns import NAME, columns_of, told
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.cache import CacheSource, TokenizedCache, open_cache
from megatron_patch.data.sft.rendering.template import ChatTemplate
from megatron_patch.data.sft.side_by_side import compare
from megatron_patch.launch.inputs import CorpusError, read_blend

Write = Callable[[Path, list[Any]], Path]
TAGS = {"role_tag": "speaker", "content_tag": "text", "user_tag": "P1", "assistant_tag": "P2", "function_tag": "does"}
CALL = json.dumps({"name": "now", "arguments": {}})
PLAIN = {"instruction": "Add.", "input": "2+2", "output": "4", "history": [["a", "b"]], "system": "Be kind."}


def info(folder: Path, **entry: Any) -> None:
    (folder / NAME).write_text(json.dumps({"mine": {"file_name": "a.jsonl", **entry}, "hub": {"hf_hub_url": "x/y"}}))


def tokens(path: Path, tokenizer: Path, cache: Path) -> TokenizedCache:
    return open_cache(CacheSource.of([path], tokenizer), cache, say=lambda message: None, workers=1)


@pytest.mark.parametrize(
    ("entry", "row", "twin"),
    [
        (
            {"columns": {"prompt": "task", "query": "on", "response": "done", "history": "past", "system": "rule"}},
            {"task": "Add.", "on": "2+2", "done": "4", "past": [["a", "b"]], "rule": "Be kind.", "output": "5"},
            PLAIN,
        ),
        ({"columns": {"prompt": "instruction", "response": "output"}}, PLAIN, {"instruction": "Add.", "output": "4"}),
        (
            {"formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": TAGS},
            {
                "talk": [
                    {"speaker": "P1", "text": "q"},
                    {"speaker": "does", "text": CALL},
                    {"speaker": "P2", "text": "a"},
                ]
            },
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "function_call", "value": CALL},
                    {"from": "gpt", "value": "a"},
                ]
            },
        ),
        (
            {"formatting": "openai", "tags": {"user_tag": "asker", "assistant_tag": "helper"}},
            {"messages": json.dumps([{"role": "asker", "content": "q"}, {"role": "helper", "content": "a"}])},
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        ),
    ],
)
def test_an_entry_is_followed(
    tmp_path: Path, tokenizer_folder: Path, write_json_lines: Write, entry: dict, row: dict, twin: dict
) -> None:
    """The same tokens as those of the row under the names that are known here."""
    file = write_json_lines(tmp_path / "a.jsonl", [row])
    other = write_json_lines(tmp_path / "twin.jsonl", [twin])
    info(tmp_path, **entry)
    found, wanted = (tokens(path, tokenizer_folder, tmp_path / "cache") for path in (file, other))
    assert found.report.lost_rows == 0 and found.tokens.tolist() == wanted.tokens.tolist()
    assert found.turns.tolist() == wanted.turns.tolist()
    (said,) = told([file, other])
    assert said.values["entry"] == "mine"


def test_other_names_are_other_tokens(
    tmp_path: Path, tokenizer_folder: Path, template: ChatTemplate, write_json_lines: Write
) -> None:
    """Another cache, and columns that are not named are told; `--line` shows the same."""
    file = write_json_lines(tmp_path / "a.jsonl", [{"q": "2+2?", "good": "4", "bad": "5"}])
    for name, unread, answer in (("good", "bad", 4), ("bad", "good", 5)):
        info(tmp_path, columns={"prompt": "q", "response": name})
        found = tokens(file, tokenizer_folder, tmp_path / "cache")
        assert list(found.report.files[0].unused_keys) == [unread]
        assert f"⟦{answer}" in compare(file, 1, template, 120)


def test_a_folder_of_an_entry_and_one_object_around_the_rows(tmp_path: Path, tokenizer_folder: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").write_text(json.dumps({"data": [{"q": "2+2?", "a": "4"}] * 3}))
    entry = {"file_name": "sub", "columns": {"prompt": "q", "response": "a"}}
    (tmp_path / NAME).write_text(json.dumps({"mine": entry}))
    report = tokens(tmp_path / "sub", tokenizer_folder, tmp_path / "cache").report
    assert (report.rows, report.lost_rows) == (3, 0)


def test_a_row_without_a_column_is_lost(tmp_path: Path, tokenizer_folder: Path, write_json_lines: Write) -> None:
    file = write_json_lines(tmp_path / "a.jsonl", [{"q": "2+2?", "a": "4"}, {"q": "2+2?", "answer": "4"}])
    info(tmp_path, columns={"prompt": "q", "response": "a"})
    report = tokens(file, tokenizer_folder, tmp_path / "cache").report
    assert report.lost_rows == 1 and str(report.lost["malformed"].first[0].why).startswith("it lacks a, which")


@pytest.mark.parametrize(
    ("entry", "codes"),
    [
        ({"formatting": "chatml"}, ["info-value"]),
        ({"ranking": True, "columns": {"chosen": "chosen"}}, ["info-value", "info-unread"]),
        ({"num_samples": 100, "split": "test"}, ["info-value", "info-unread"]),
        ({"columns": {"prompt": 5}, "tags": ["a"]}, ["info-names", "info-names"]),
        ({"columns": {"messages": "talk"}}, ["info-unread"]),  # formatting is alpaca
        ({"formatting": "sharegpt", "tags": {"user": "P1"}}, ["info-unread"]),
    ],
)
def test_an_entry_that_cannot_be_followed_is_refused_in_the_plan(
    tmp_path: Path, write_json_lines: Write, entry: dict, codes: list[str]
) -> None:
    file = write_json_lines(tmp_path / "a.jsonl", [PLAIN])
    info(tmp_path, **entry)
    with pytest.raises(DataError) as caught:
        columns_of(file)
    assert [message.values["problem"].code for message in caught.value.messages] == codes
    assert all("entry mine: " in problem and NAME in problem for problem in caught.value.problems)
    with pytest.raises(CorpusError):
        read_blend(str(file), raw=True)


def test_whose_entry_it_is(tmp_path: Path, write_json_lines: Write) -> None:
    file = write_json_lines(tmp_path / "a.jsonl", [PLAIN])
    one, other = ({"file_name": "a.jsonl", "columns": {"prompt": name}} for name in ("x", "y"))
    for content, wanted in (
        ({"mine": {**one, "file_name": "b.jsonl"}}, None),
        ({"mine": {"file_name": "a.jsonl"}}, None),  # everything by its usual name
        ({"one": one, "same": one}, "one"),
        ({"features": {"file_name": {"dtype": "string"}}, "splits": []}, None),  # `datasets`' own file
    ):
        (tmp_path / NAME).write_text(json.dumps(content))
        found = columns_of(file)
        assert (found and found.entry) == wanted
    for text in (json.dumps({"one": one, "other": other}), "{"):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(DataError):
            columns_of(file)
