"""Token ids are counted from the JSON alone, as the tokenizer's own library counts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from megatron_patch.launch.inputs import UnusableTokenizer, read_tokenizer


def test_count_is_the_librarys(world: Path) -> None:
    tokenizer = Tokenizer.from_file(str(world / "tokenizer" / "tokenizer.json"))
    found = read_tokenizer(str(world / "tokenizer"))
    assert found.ids == tokenizer.get_vocab_size(with_added_tokens=True) == 258


def count_ids(folder: Path, tokenizer_json: str) -> int:
    (folder / "tokenizer.json").write_text(tokenizer_json)
    return read_tokenizer(str(folder)).ids


def test_tokens_that_look_like_json_keys(tmp_path: Path) -> None:
    """Tokens called `vocab`, `"vocab": {` and the like are content, not structure."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.decoder = decoders.ByteLevel()
    odd = ["vocab", "added_tokens", '"vocab": {', '"added_tokens": [', '\\"', "id", "}"]
    tokenizer.train_from_iterator([" ".join(odd)] * 3, trainers.BpeTrainer(vocab_size=200, min_frequency=1))
    tokenizer.add_tokens([*odd, AddedToken('"vocab": {"x": 9999}', normalized=False)])
    assert count_ids(tmp_path, tokenizer.to_str()) == tokenizer.get_vocab_size(with_added_tokens=True)
    assert count_ids(tmp_path, tokenizer.to_str(pretty=True)) == tokenizer.get_vocab_size(with_added_tokens=True)


def test_the_highest_id_counts_not_the_number(tmp_path: Path) -> None:
    document = {"added_tokens": [{"id": 500, "content": "a"}], "model": {"vocab": {"b": 3}}}
    assert count_ids(tmp_path, json.dumps(document)) == 501


def test_unigram_vocabularies_are_lists(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0), ("c", -3.0)]))
    assert count_ids(tmp_path, tokenizer.to_str()) == 3


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"vocab": {}}}', '{"model": {"vocab": {"a": 1}'])
def test_a_tokenizer_json_that_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UnusableTokenizer, match="cannot be read"):
        read_tokenizer(str(tmp_path))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A SentencePiece model of 300 pieces."""
    text = "\n".join(f"{number} words of some kind, {number * number}" for number in range(300))
    (tmp_path / "text.txt").write_text(text)
    options = {"vocab_size": 300, "byte_fallback": True, "minloglevel": 2}
    SentencePieceTrainer.train(input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "ja"), **options)
    return tmp_path / "ja.model"


def test_pieces_of_a_sentencepiece_model(model: Path) -> None:
    """By its file, or by a folder that holds it alone, whatever its name."""
    for place in (model, model.parent):
        found = read_tokenizer(str(place))
        assert (found.ids, found.model, found.path) == (300, str(model), str(model.parent))
    (model.parent / "other.model").write_bytes(b"")
    with pytest.raises(UnusableTokenizer, match=r"several models, name one: ja\.model, other\.model"):
        read_tokenizer(str(model.parent))
    model.rename(model.with_name("tokenizer.model"))
    assert read_tokenizer(str(model.parent)).ids == 300


@pytest.mark.parametrize("content", [b"", b"x", b"\n\xff\xff\x01", b"\n\x80", b"not a model at all", b"\x12\x01a"])
def test_a_model_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UnusableTokenizer, match=r"tokenizer\.model cannot be read"):
        read_tokenizer(str(tmp_path))


def test_a_torn_model(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-7])
    with pytest.raises(UnusableTokenizer, match="torn"):
        read_tokenizer(str(model))
