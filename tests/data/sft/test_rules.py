"""From a file of conversations to samples, where the chat template leaves something out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft import inspection
from megatron_patch.data.sft.cache import CacheSource, TokenizedCache, open_cache
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.rendering.template import Rendered
from megatron_patch.data.sft.report import EARLIER_REASONING, TooMuchLost
from megatron_patch.data.sft.selection import select
from megatron_patch.data.sft.tokenize import Rules
from megatron_patch.data.tokenizers.engines import EngineError, Gigatoken

Write = Callable[[Path, list[Any]], Path]
# As Qwen3: reasoning of the last turn only. Texts of more than nine characters are cut.
TEMPLATE = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>' }}"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m['content'][:9] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>' }}{% endif %}"
)


def thinking(turns: int) -> dict[str, Any]:
    answers = [
        {"role": "assistant", "content": f"answer {i}", "reasoning_content": f"thought {i}"} for i in range(turns)
    ]
    return {"messages": [message for answer in answers for message in ({"role": "user", "content": "q"}, answer)]}


def cut() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a long answer"}]}


@pytest.fixture
def folder(tokenizer_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path / "tokenizer"


def build(
    rows: list[Any], folder: Path, tmp_path: Path, write: Write, rules: Rules, workers: int = 1
) -> TokenizedCache:
    data = write(tmp_path / "data.jsonl", rows)
    return open_cache(CacheSource.of([data], folder, rules), tmp_path / "cache", say=print, workers=workers)


def trained_texts(cache: TokenizedCache, tokenizer: ChatTokenizer) -> list[str]:
    rows = [cache.row(number) for number in range(len(cache))]
    return [tokenizer.backend.decode(ids[turns > 0].tolist(), skip_special_tokens=False) for ids, turns in rows]


def test_what_is_left_out_is_lost_and_shown(
    folder: Path, tmp_path: Path, write_json_lines: Write, tokenizer: ChatTokenizer
) -> None:
    cache = build([thinking(1), cut(), thinking(2)], folder, tmp_path, write_json_lines, Rules(), workers=2)
    assert trained_texts(cache, tokenizer) == [
        "<think>thought 0</think>answer 0<|eot_id|>",
        "answer 0<|eot_id|><think>thought 1</think>answer 1<|eot_id|>",
    ]
    report = "\n".join(map(str, cache.report.lines()))
    assert "lost, text left out by the chat template: 1 (MP_SFT_DROPPED=keep" in report
    assert "data.jsonl:2: the chat template leaves out the text of message 2: 'a long answer'" in report
    assert f"used, {EARLIER_REASONING}: 1 (MP_SFT_TURNS=one-by-one" in report
    with pytest.raises(TooMuchLost, match=r"33\.3% of the rows are lost"):
        select(cache, seq_length=128, loss="assistant")


def test_it_can_be_kept(folder: Path, tmp_path: Path, write_json_lines: Write, tokenizer: ChatTokenizer) -> None:
    cache = build([cut()], folder, tmp_path, write_json_lines, Rules(dropped="keep"), workers=2)
    assert trained_texts(cache, tokenizer) == ["a long an<|eot_id|>"]
    assert "used, text left out by the chat template: 1" in map(str, cache.report.lines())
    _, report = select(cache, seq_length=128, loss="assistant")
    assert report.lost_rows == 0 and report.noted


def test_one_sample_for_each_turn(
    folder: Path, tmp_path: Path, write_json_lines: Write, tokenizer: ChatTokenizer
) -> None:
    cache = build([thinking(2), thinking(1)], folder, tmp_path, write_json_lines, Rules(turns="one-by-one"), workers=2)
    assert trained_texts(cache, tokenizer) == [
        "<think>thought 0</think>answer 0<|eot_id|>",
        "<think>thought 1</think>answer 1<|eot_id|>",
        "<think>thought 0</think>answer 0<|eot_id|>",
    ]
    assert [cache.origin(number)[1] for number in range(3)] == [1, 1, 2]
    samples, report = select(cache, seq_length=128, loss="last")
    assert (report.samples, report.rows, report.lost_rows, report.noted) == (3, 3, 0, {})
    assert [int(samples.sample(number)[2].sum()) > 0 for number in range(3)] == [True] * 3


def test_other_rules_are_another_cache(folder: Path, tmp_path: Path, write_json_lines: Write) -> None:
    data = write_json_lines(tmp_path / "data.jsonl", [thinking(1)])
    rules = (Rules(), Rules(dropped="keep"), Rules(turns="one-by-one"))
    assert len({CacheSource.of([data], folder, each).key() for each in rules}) == 3
    with pytest.raises(ValueError, match="turns is 'both'; valid: together, one-by-one"):
        Rules(turns="both")


def test_tokens_that_another_file_adds_make_another_cache(
    folder: Path, tmp_path: Path, write_json_lines: Write
) -> None:
    data = write_json_lines(tmp_path / "data.jsonl", [thinking(1)])
    before = CacheSource.of([data], folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"extra_special_tokens": ["<new>"]}))
    after = CacheSource.of([data], folder)
    assert before.tokenizer.sha256 == after.tokenizer.sha256
    assert before.key() != after.key()


def test_the_cause_of_a_failure_is_said(folder: Path, tmp_path: Path, write_json_lines: Write) -> None:
    """What ends the process that builds is in the message, not only in its log."""
    data = write_json_lines(tmp_path / "data.jsonl", [thinking(1)])
    source = CacheSource.of([data], folder)
    (folder / "tokenizer.json").rename(folder / "away.json")
    (folder / "tokenizer.json").mkdir()
    with pytest.raises((RuntimeError, DataError), match="holds no readable tokenizer"):
        open_cache(source, tmp_path / "cache", say=print, workers=2)


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), MemoryError(), type("PanicException", (BaseException,), {})("odd")]
)
def test_any_failure_of_the_fast_engine_is_an_engine_error(
    error: BaseException, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = Gigatoken(tokenizer, special=False)

    class Broken:
        def encode_batch(self, *_: Any, **__: Any) -> None:
            raise error

    monkeypatch.setattr(fast, "_tokenizer", Broken())
    with pytest.raises(EngineError, match=f"gigatoken failed: {type(error).__name__}"):
        fast.encode(["a"])


def test_texts_that_are_normalized_are_placed_by_hugging_face(tokenizer: ChatTokenizer) -> None:
    """NFC: the letters here become fewer bytes, others more, so that lengths add up and places do not."""
    from dataclasses import replace

    from tokenizers import Tokenizer, normalizers

    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.normalizer = normalizers.NFC()
    changed = replace(tokenizer, backend=backend)
    text = "e\u0301 first, then \u0958\u0958\u0958 and e\u0301 last"
    rendered = [Rendered(text=text, spans=[(at, at + 5)]) for at in range(len(text) - 5)]
    for (ids, turns), (right, places) in zip(
        Encoder(changed).encode(rendered), Encoder(changed, "hf").encode(rendered), strict=True
    ):
        assert np.array_equal(ids, right) and np.array_equal(turns, places)


def test_inspect_shows_a_row_beside_its_rendering(
    folder: Path,
    tmp_path: Path,
    write_json_lines: Write,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    data = write_json_lines(tmp_path / "data.jsonl", [thinking(2), cut(), {"text": "\x1b[31mred"}])
    command = [str(data), "--tokenizer", str(folder), "--line"]
    assert inspection.main([*command, "1", "2", "3"]) == 0
    first, second, third = capsys.readouterr().out.split("\n\n" + str(data))
    assert "reasoning_content: thought 0" in first and "⟦<think>thought" in first
    assert "the reasoning of message 2: 'thought 0' (as is its way with earlier turns)" in first
    assert "the chat template leaves out the text of message 2: 'a long answer'" in second
    assert "lost: no known format" in third and "\x1b" not in third
    assert inspection.main([*command, "4"]) == 1
    assert "no row on line 4" in capsys.readouterr().err
