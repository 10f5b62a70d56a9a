"""Token ids are counted from the JSON alone, as the tokenizer's own library counts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from megatron_patch.launch.vocabulary import TokenizerError, count_ids, read_tokenizer


def test_count_is_the_librarys(world: Path) -> None:
    tokenizer = Tokenizer.from_file(str(world / "tokenizer" / "tokenizer.json"))
    found = read_tokenizer(str(world / "tokenizer"))
    assert found.ids == tokenizer.get_vocab_size(with_added_tokens=True) == 258


def test_tokens_that_look_like_json_keys() -> None:
    """Tokens called `vocab`, `"vocab": {` and the like are content, not structure."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.decoder = decoders.ByteLevel()
    odd = ["vocab", "added_tokens", '"vocab": {', '"added_tokens": [', '\\"', "id", "}"]
    tokenizer.train_from_iterator([" ".join(odd)] * 3, trainers.BpeTrainer(vocab_size=200, min_frequency=1))
    tokenizer.add_tokens([*odd, AddedToken('"vocab": {"x": 9999}', normalized=False)])
    assert count_ids(tokenizer.to_str()) == tokenizer.get_vocab_size(with_added_tokens=True)
    assert count_ids(tokenizer.to_str(pretty=True)) == tokenizer.get_vocab_size(with_added_tokens=True)


def test_the_highest_id_counts_not_the_number() -> None:
    document = {"added_tokens": [{"id": 500, "content": "a"}], "model": {"vocab": {"b": 3}}}
    assert count_ids(json.dumps(document)) == 501


def test_unigram_vocabularies_are_lists() -> None:
    tokenizer = Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0), ("c", -3.0)]))
    assert count_ids(tokenizer.to_str()) == 3


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"vocab": {}}}', '{"model": {"vocab": {"a": 1}'])
def test_a_tokenizer_json_that_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match="cannot be read"):
        read_tokenizer(str(tmp_path))


def test_a_folder_with_only_a_sentencepiece_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    assert read_tokenizer(str(tmp_path)).ids is None
