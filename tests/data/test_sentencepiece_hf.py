"""A SentencePiece model and the tokenizer.json made from it give the same ids, and transformers reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from megatron_patch.data.tokenizers import sentencepiece_hf
from megatron_patch.data.tokenizers.sentencepiece_hf import TEXTS, build, read_model, special_ids, write_hf_tokenizer
from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError

JAPANESE = "これは日本語の文章です。分割できますか？\n東京大学　松尾研究室\nｶﾀｶﾅ ＡＢＣ １２３ ①\n"
KINDS = {
    "unigram": {"model_type": "unigram"},
    "BPE": {"model_type": "bpe"},
    "as Llama 2": {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "no dummy prefix": {"normalization_rule_name": "identity", "add_dummy_prefix": False, "split_digits": True},
    "own symbols": {"user_defined_symbols": ["<|user|>"], "normalization_rule_name": "identity"},
}


def train(folder: Path, **options: object) -> Path:
    import inspect
    import textwrap

    (folder / "text.txt").write_text(inspect.getsource(textwrap) + JAPANESE * 30)
    usual = {"vocab_size": 700, "byte_fallback": True, "minloglevel": 2}
    SentencePieceTrainer.train(input=str(folder / "text.txt"), model_prefix=str(folder / "m"), **(usual | options))
    return folder / "m.model"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_ids_and_text(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = train(tmp_path, **KINDS[kind])
    (tmp_path / "hf").mkdir()
    assert "same ids on" in str(write_hf_tokenizer(model, tmp_path / "hf"))
    theirs, ours = SentencePieceProcessor(model_file=str(model)), AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = [text for text in TEXTS if "\u3099" not in text]  # a combining mark: see MOST_DIFFERENT
    assert [ours(text, add_special_tokens=False)["input_ids"] for text in texts] == theirs.encode(texts)
    assert [ours.decode(row) for row in theirs.encode(texts)] == theirs.decode(theirs.encode(texts))
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_id(), theirs.eos_id()) == (1, 2)
    assert len(ours) == theirs.get_piece_size()
    assert special_ids(model) == {"bos": 1, "eos": 2, "unk": 0}


def test_different_ids_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one text with a combining mark, where none may differ."""
    monkeypatch.setattr(sentencepiece_hf, "MOST_DIFFERENT", 0.0)
    with pytest.raises(TokenizerError, match=r"differs on 1 of \d+ texts"):
        write_hf_tokenizer(train(tmp_path), tmp_path)


def test_kinds_that_cannot_be_said(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="only unigram and BPE"):
        build(read_model(train(tmp_path, model_type="word", vocab_size=400, byte_fallback=False)))


def test_text_is_not_a_sentencepiece_model(tmp_path: Path) -> None:
    (tmp_path / "m.model").write_bytes(b"text")
    with pytest.raises(TokenizerError, match="is not a SentencePiece model"):
        read_model(tmp_path / "m.model")
