"""Both engines give the same tokens and turns; a difference is noticed, and the cache is right all the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from megatron_patch.data.sft.cache import CacheSource, open_cache
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.formats import Conversation
from megatron_patch.data.sft.rendering.template import ChatTemplate, Rendered
from megatron_patch.data.tokenizers.engines import EngineError, Gigatoken


def same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


def random_spans(text: str, state: random.Random) -> list[tuple[int, int]]:
    """Anywhere, in the middle of words too: the places of tokens must agree everywhere."""
    cuts = sorted(state.sample(range(len(text) + 1), min(4, len(text) + 1) // 2 * 2))
    return list(zip(cuts[::2], cuts[1::2], strict=True))


def test_tokens_and_turns_are_the_same(
    tokenizer: ChatTokenizer, template: ChatTemplate, conversations: list[Any]
) -> None:
    fast, slow = Encoder(tokenizer), Encoder(tokenizer, "hf")
    assert "gigatoken" in str(fast.note) and "Hugging Face" in str(slow.note)
    state = random.Random(0)
    rendered = [template.render(Conversation(messages=messages)) for messages in conversations]
    texts = [item.text[start : start + 60] for item in rendered for start in range(0, len(item.text), 50)]
    texts += ["", "a", " \n ", "🦙🧿\n\n  é", "<|eot_id|><|eot_id|>"]
    rendered += [Rendered(text=text, spans=random_spans(text, state)) for text in texts for _ in range(3)]
    assert same(fast.encode(rendered), slow.encode(rendered))


def test_texts_whose_bytes_do_not_add_up_go_to_hugging_face(tokenizer: ChatTokenizer) -> None:
    """An added token that swallows white space: gigatoken's ids alone do not tell where it ends."""
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens([AddedToken("<mine>", lstrip=True, rstrip=True)])
    changed = ChatTokenizer(
        backend=backend, path=tokenizer.path, vocab_size=backend.get_vocab_size(),
        named_tokens=tokenizer.named_tokens, chat_templates={}, sha256="",
    )  # fmt: skip
    rendered = [Rendered(text="a  <mine>  b c", spans=[(9, 14)]), Rendered(text="plain", spans=[(0, 5)])]
    assert same(Encoder(changed).encode(rendered), Encoder(changed, "hf").encode(rendered))


def test_a_difference_on_the_way_is_noticed(
    tokenizer: ChatTokenizer,
    tokenizer_folder: Path,
    tmp_path: Path,
    conversations: list[Any],
    write_json_lines: Callable[[Path, list[Any]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write_json_lines(tmp_path / "data.jsonl", [{"messages": messages} for messages in conversations])
    source = CacheSource.of([data], tokenizer_folder)
    right = open_cache(source, tmp_path / "right", workers=1, say=print)
    assert str(right.report.engine).startswith("engine: gigatoken")

    encode = Gigatoken.encode

    def wrong(self: Gigatoken, texts: list[str]) -> Any:
        ids, lengths = encode(self, texts)
        if len(texts) > 1:  # each text backwards: as many bytes as before
            ids = np.concatenate([part[::-1] for part in np.split(ids, np.cumsum(lengths)[:-1])])
        return ids, lengths

    monkeypatch.setattr(Gigatoken, "encode", wrong)
    with pytest.raises(EngineError, match="other tokens or places"):
        Encoder(tokenizer).encode([Rendered(text="one two three", spans=[]), Rendered(text="four five", spans=[])])
    again = open_cache(source, tmp_path / "again", workers=1, say=print)
    assert "from the start again" in str(again.report.engine)
    for name in ("tokens", "turns", "offsets", "origins"):
        assert (again.folder / f"{name}.bin").read_bytes() == (right.folder / f"{name}.bin").read_bytes()
