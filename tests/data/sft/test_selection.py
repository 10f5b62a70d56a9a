"""Which rows of a cache are trained on, and the account of those that are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest

from megatron_patch.data.sft.cache import CacheSource, TokenizedCache, open_cache
from megatron_patch.data.sft.report import TooMuchLost
from megatron_patch.data.sft.selection import select

Write = Callable[[Path, list[Any]], Path]


def cache_of(data: Path, tokenizer_folder: Path) -> TokenizedCache:
    return open_cache(CacheSource.of([data], tokenizer_folder), data.parent / "cache", say=lambda line: None, workers=1)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, write_json_lines: Write, tokenizer_folder: Path) -> TokenizedCache:
    """20 rows: 14 fine, then long ones and such that cannot be used."""
    folder = tmp_path_factory.mktemp("mixed")
    fine = [{"instruction": f"q {i}", "output": "yes", "id": i} for i in range(14)]
    rows = [
        *fine,
        {"instruction": "q", "output": "word " * 200},  # 15: its prompt fits
        {"instruction": "word " * 200, "output": "yes"},  # 16: only its prompt would be left
        {"instruction": "q", "output": ""},  # 17
        {"instruction": "q", "output": "half a llama: \ud83e"},  # 18
        {"messages": [{"role": "user", "content": "nobody answers"}]},  # 19
        {"instruction": "<|eot_id|>", "output": "yes"},  # 20
    ]
    return cache_of(write_json_lines(folder / "rows.jsonl", rows), tokenizer_folder)


LENGTH = 120


def test_every_row_is_accounted_for(mixed: TokenizedCache, tmp_path: Path) -> None:
    selected, report = select(mixed, seq_length=LENGTH, loss="assistant", max_lost=0.25)
    assert report.rows == 20 and report.samples == 16 and report.lost_rows == 4
    assert {cause: [example.line for example in found.first] for cause, found in report.lost.items()} == {
        "malformed": [18],
        "empty": [17],
        "no trainable token": [16, 19],
    }
    assert [example.line for example in report.truncated.first] == [15, 16]
    assert selected.lengths.max() == LENGTH and report.tokens == selected.lengths.sum()
    masks = [selected.sample(number)[2] for number in range(len(selected.rows))]
    assert report.trained_tokens == sum(int(mask.sum()) for mask in masks)
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["lost"]["empty"]["first"][0] == {"file": ANY, "line": 17, "row": 0, "why": "output is empty"}
    assert written["files"][0]["formats"] == {"alpaca": 19, "messages": 1}
    assert written["files"][0]["unused_keys"] == {"id": 14}
    text = "\n".join(map(str, report.lines()))
    assert "16 of 20 rows used" in text and "rows.jsonl:18: its text holds half" in text and "in 1 rows" in text


def test_keys_of_messages_that_nobody_reads(tmp_path: Path, write_json_lines: Write, tokenizer_folder: Path) -> None:
    """Counted, with the place of the first; what the template may read, what is null and weights are read."""
    answer = {"role": "assistant", "content": "yes", "weight": 1, "reasoning_content": "why", "extra": None}
    rows = [
        {"messages": [{"role": "user", "content": "q"}, answer]},
        {"messages": [{"role": "user", "content": "q", "mood": "good"}, {**answer, "mood": "bad", "tool_calls": []}]},
        {"prompt": [{"role": "user", "content": "q", "mood": 1}], "completion": [answer]},
        {"conversations": [{"from": "human", "value": "q", "tool_calls": 1}, {"from": "gpt", "value": "a", "loss": 1}]},
    ]
    cache = cache_of(write_json_lines(tmp_path / "rows.jsonl", rows), tokenizer_folder)
    for found in (cache, cache_of(tmp_path / "rows.jsonl", tokenizer_folder)):  # the second is read from the disk
        _, report = select(found, seq_length=LENGTH, loss="assistant", max_lost=0.9)
        assert report.as_dict()["files"][0]["unread"] == {
            "mood": {"count": 3, "line": 2, "row": 0},
            "tool_calls": {"count": 1, "line": 4, "row": 0},
        }
        text = "\n".join(map(str, report.lines()))
        assert "nor the chat template reads: 'mood' (3 messages, the first in " in text
        assert f"'tool_calls' (1 message, the first in {tmp_path / 'rows.jsonl'}:4)" in text


def test_rows_that_say_they_are_not_to_be_trained(
    tmp_path: Path, write_json_lines: Write, tokenizer_folder: Path
) -> None:
    """Rows of weight 0 and bad answers of KTO's are lost under a cause of their own; a label of numbers is unread."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    answers = [
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "b", "label": False},
        {"messages": turns, "kto_tag": False},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "weight": 0},
        {"instruction": "q", "output": "a", "weight": 1.0, "label": None},
        {"instruction": "q", "output": "a", "weight": 0.5},
        {"instruction": "q", "output": "a", "weight": "70 kg", "label": 0},
    ]
    cache = cache_of(write_json_lines(tmp_path / "rows.jsonl", answers), tokenizer_folder)
    _, report = select(cache, seq_length=LENGTH, loss="assistant", max_lost=0.9)
    assert {cause: [example.line for example in found.first] for cause, found in report.lost.items()} == {
        "marked as not to be trained": [2, 3, 4],
        "malformed": [6],
    }
    assert report.samples == 3 and report.files[0].unused_keys == {"weight": 1, "label": 1}
    with pytest.raises(TooMuchLost, match=r"not to be trained: 3 \(take them out, or set MP_SFT_MAX_LOST"):
        select(cache, seq_length=LENGTH, loss="assistant")


def test_overlong_rows_are_dropped_and_counted_or_an_error(mixed: TokenizedCache) -> None:
    _, report = select(mixed, seq_length=LENGTH, loss="assistant", overlong="drop", max_lost=0.3)
    assert report.lost["too long"].count == 2 and report.samples == 15 and report.truncated.count == 0
    with pytest.raises(TooMuchLost, match=r"OVERLONG is error[\s\S]*rows\.jsonl:15: \d+ tokens; a row holds 121"):
        select(mixed, seq_length=LENGTH, loss="assistant", overlong="error", max_lost=1.0)
    _, report = select(mixed, seq_length=4096, loss="assistant", overlong="error", max_lost=0.2)
    assert "too long" not in report.lost


def test_losing_too_much_is_an_error_with_the_whole_account(mixed: TokenizedCache) -> None:
    with pytest.raises(
        TooMuchLost, match=r"20\.0% of the rows are lost; allowed 10\.0%[\s\S]*:18: its text holds half"
    ):
        select(mixed, seq_length=LENGTH, loss="assistant")
    with pytest.raises(TooMuchLost, match="nothing is left to train on"):
        select(mixed, seq_length=4, loss="assistant", max_lost=1.0)


@pytest.fixture(scope="module")
def turns(
    tmp_path_factory: pytest.TempPathFactory,
    conversations: list[Any],
    write_json_lines: Write,
    tokenizer_folder: Path,
) -> TokenizedCache:
    """Conversations of one to four turns."""
    rows = [{"messages": messages} for messages in conversations[:9]]
    return cache_of(write_json_lines(tmp_path_factory.mktemp("turns") / "data.jsonl", rows), tokenizer_folder)


@pytest.mark.parametrize("loss", ["assistant", "last", "all"])
@pytest.mark.parametrize("seq_length", [130, 400, 2000])
def test_counts_equal_the_masks(turns: TokenizedCache, loss: str, seq_length: int) -> None:
    selected, report = select(turns, seq_length=seq_length, loss=loss, max_lost=1.0)
    by_hand = []
    for number in range(len(turns)):
        tokens, turn = (part[: seq_length + 1] for part in turns.row(number))
        wanted = {"assistant": turn > 0, "last": turn == 2, "all": turn >= 0}[loss]
        by_hand.append(int(wanted[1:].sum()))
        if by_hand[-1]:
            at = int(np.searchsorted(selected.rows, number))
            inputs, labels, mask = selected.sample(at)
            assert inputs.tolist() == tokens[:-1].tolist() and labels.tolist() == tokens[1:].tolist()
            assert mask.tolist() == wanted[1:].tolist()
    assert report.trained_tokens == sum(by_hand)
    assert selected.rows.tolist() == [number for number, count in enumerate(by_hand) if count]
