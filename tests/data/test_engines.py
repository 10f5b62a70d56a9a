"""The fast engine gives what Hugging Face gives, on texts made to tell them apart; else it is not used."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from megatron_patch.common.messages import Message
from megatron_patch.data.tokenizers import engines
from megatron_patch.data.tokenizers.engines import (
    EngineError,
    Gigatoken,
    HuggingFace,
    SentencePiece,
    battery,
    choose,
    compare,
)
from megatron_patch.data.tokenizers.text_tokenizer import TextTokenizer, TokenizerError, load_tokenizer

PIECES = (
    "hello", " world", "\n\n", "  ", "\t", "北京", "é", "e\u0301", "🦙", "🧿‍♂️", "123456789", "don't", "'LL", "ſ", "İ",
    "\u200b", "\ufeff", "\x00", "\u2028", "\r\n", "\r", "𐐷", "ﬁ", "ｆｕｌｌ", "٣٤", "्", "क", "\U0010ffff", "a" * 50,
    " " * 20, "<|", "|>", "<|eot_id", "_", "\xa0", "\u3000", "\x1f", "\x85", "１２３",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> TextTokenizer:
    return load_tokenizer(tokenizer_folder)


def strange_texts(tokenizer: TextTokenizer, count: int = 400) -> list[str]:
    """Awkward pieces and special tokens in random order, and random characters."""
    state = random.Random(0)
    added = [token.content for token in tokenizer.backend.get_added_tokens_decoder().values()]
    pieces = [*PIECES, *added[:12]]
    texts = ["".join(state.choice(pieces) for _ in range(state.randint(0, 25))) for _ in range(count)]
    for _ in range(count):
        codes = [state.choice((0x300, 0xFFFF, 0x10FFFF)) * state.random() for _ in range(20)]
        texts.append("".join(chr(int(code)) for code in codes if not 0xD800 <= code < 0xE000))
    return texts


@pytest.mark.parametrize("special", [True, False])
def test_special_tokens_in_the_text_and_everything_else(tokenizer: TextTokenizer, special: bool) -> None:
    fast, slow = Gigatoken(tokenizer, special), HuggingFace(tokenizer=tokenizer, special=special)
    texts = strange_texts(tokenizer)
    ids, lengths = fast.encode(texts)
    expected_ids, expected_lengths = slow.encode(texts)
    assert lengths.tolist() == expected_lengths.tolist()
    assert ids.tolist() == expected_ids.tolist()
    assert slow.ids(texts[0]) == expected_ids[: lengths[0]].tolist() == fast.ids(texts[0])


def test_what_is_put_around_a_text(tokenizer: TextTokenizer) -> None:
    """BOS alone is Llama 3's case; here two before and one after, on texts of no token too."""
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    names = ["<|begin_of_text|>", "<|eot_id|>"]
    ids = [(name, backend.token_to_id(name)) for name in names]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{names[0]} {names[1]} $A {names[1]}", special_tokens=ids
    )
    wrapped = TextTokenizer(backend, {"eos_token": tokenizer.eod_token}, Message("note-plain"))
    fast, slow = Gigatoken(wrapped, True), HuggingFace(tokenizer=wrapped, special=True)
    texts = ["", "a", "hello world", "", "<|eot_id|>"]
    assert [part.tolist() for part in fast.encode(texts)] == [part.tolist() for part in slow.encode(texts)]


def test_added_tokens_of_every_kind_are_equal_or_refused(tokenizer: TextTokenizer) -> None:
    """`lstrip`, `rstrip`, `single_word` and `normalized` change what is matched."""
    for flags in ({"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}, {"special": False}):
        backend = Tokenizer.from_str(tokenizer.backend.to_str())
        backend.add_tokens([AddedToken("<|mine|>", **flags)])
        changed = TextTokenizer(backend, {"eos_token": tokenizer.eod_token}, Message("note-plain"))
        engine, _ = choose(changed, [], special=True, wanted="auto")
        slow = HuggingFace(tokenizer=changed, special=True)
        for text in ("a <|mine|> b", "a<|mine|>b", " <|mine|>  <|mine|>\n", "<|MINE|>x"):
            assert engine.encode([text])[0].tolist() == slow.ids(text), (flags, engine.name, text)


def test_the_run_is_told_which_engine_it_has(tokenizer: TextTokenizer) -> None:
    engine, note = choose(tokenizer, ["some text"], special=True, wanted="auto")
    assert engine.name == "gigatoken" and "equal to Hugging Face on" in str(note)
    engine, note = choose(tokenizer, ["some text"], special=True, wanted="hf")
    assert engine.name == "hf" and "as asked" in str(note)


def test_a_tokenizer_it_does_not_know_falls_back() -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "end": 2}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    other = TextTokenizer(backend, {"eos_token": "end"}, Message("note-plain"))
    engine, note = choose(other, ["a b A"], special=True, wanted="auto")
    assert engine.name == "hf" and "falling back" in str(note) and "gigatoken cannot read" in str(note)
    with pytest.raises(EngineError):
        choose(other, ["a b A"], special=True, wanted="gigatoken")


def test_a_different_answer_falls_back(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast engine is broken on purpose: it must be noticed, whatever text shows it."""
    right = Gigatoken.encode

    def wrong_on_digits(self: Gigatoken, texts: list[str]) -> Any:
        ids, lengths = right(self, texts)
        return (ids[::-1].copy() if any("12" in text for text in texts) else ids), lengths

    monkeypatch.setattr(Gigatoken, "encode", wrong_on_digits)
    engine, note = choose(tokenizer, [], special=True, wanted="auto")
    assert engine.name == "hf" and "where Hugging Face gives" in str(note) and "of '1234567890 12 3.14'" in str(note)
    monkeypatch.setattr(engines, "battery", lambda tokenizer: [])
    engine, note = choose(tokenizer, ["fine", "only here: 12"], special=True, wanted="auto")
    assert engine.name == "hf" and "only here: 12" in str(note)


def test_only_the_first_documents_are_compared() -> None:
    assert engines._up_to(["ab", "cdef", "ghi"], 5) == ["ab", "cde"]
    assert engines._up_to([], 5) == []


def test_the_battery_holds_special_tokens_inside_texts(tokenizer: TextTokenizer) -> None:
    texts = battery(tokenizer)
    assert "a<|begin_of_text|>b" in texts and len(texts) < 300
    fast, slow = Gigatoken(tokenizer, True), HuggingFace(tokenizer=tokenizer, special=True)
    assert compare(fast, slow, texts) == len(texts)


# ---------------------------------------------------------------- SentencePiece


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def model(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama 2's kind (BPE with bytes) and Tanuki's (unigram)."""
    import json

    import sentencepiece

    folder = tmp_path_factory.mktemp("spm")
    text = folder / "text.txt"
    text.write_text("\n".join(json.loads(line)["text"] for line in corpus.read_text().splitlines()))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=1200, model_type=request.param,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    return folder / "tokenizer.model"


TEXTS = ["hello world", "", "  two  spaces ", "北京🦙 unseen ☃", "a\nb\n\n", "<s> x </s>", "def f(x):\n\treturn x"]


def test_sentencepiece_is_megatrons(model: Path) -> None:
    from megatron.core.tokenizers.text.libraries.sentencepiece_tokenizer import SentencePieceTokenizer

    theirs = SentencePieceTokenizer(str(model))
    ours = SentencePiece(model)
    ids, lengths = ours.encode(TEXTS)
    expected = [theirs.text_to_ids(text) for text in TEXTS]
    assert lengths.tolist() == [len(row) for row in expected]
    assert ids.tolist() == [number for row in expected for number in row]
    assert (ours.vocab_size, ours.eod_id) == (theirs.vocab_size, theirs.eos_id)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"no model")
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        SentencePiece(tmp_path / "x.model")


def test_hugging_faces_form_of_llama_2(corpus: Path) -> None:
    """BPE with byte fallback and ▁: gigatoken has a backend of its own for it."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    byte_tokens = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    import json

    texts = [json.loads(line)["text"].replace("\n", " ")[:300] for line in corpus.read_text().splitlines()]
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = TextTokenizer(backend, {"eos_token": "</s>"}, "")
    engine, note = choose(tokenizer, texts, special=True, wanted="auto")
    slow = HuggingFace(tokenizer=tokenizer, special=True)
    found, expected = engine.encode(TEXTS), slow.encode(TEXTS)
    assert found[0].tolist() == expected[0].tolist() and np.array_equal(found[1], expected[1]), note
