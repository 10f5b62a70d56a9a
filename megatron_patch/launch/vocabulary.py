"""The tokenizer on disk, read without a tokenizer library: is it one, and how many ids does it have?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.data.sentencepiece import PiecesError, count_pieces, find_sentencepiece  # standard library only


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A Hugging Face tokenizer, or a SentencePiece model alone."""

    path: str
    """Its folder, absolute."""
    ids: int
    """Highest token id + 1."""
    model: str | None = None
    """The SentencePiece model's file, where there is no tokenizer.json."""


class TokenizerError(ValueError):
    """A folder without a usable tokenizer."""


def read_tokenizer(place: str) -> Tokenizer:
    """Find the tokenizer in a folder, or take a `.model` file, and count its ids.

    Raises:
        TokenizerError: no tokenizer there, several, or one that cannot be read.
    """
    path = Path(place)
    try:
        model = find_sentencepiece(path)
    except PiecesError as error:
        raise TokenizerError(str(error)) from error
    file = model or path / "tokenizer.json"
    if not file.is_file():
        raise TokenizerError(f"{place} holds no tokenizer.json" if path.is_dir() else f"{place} is not a folder")
    try:
        ids = count_pieces(file.read_bytes()) if model else count_ids(file.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    return Tokenizer(path=str(file.resolve().parent), ids=ids, model=str(model.resolve()) if model else None)


def count_ids(tokenizer_json: str) -> int:
    """Highest token id + 1, over the vocabulary and the added tokens.

    Llama 3's 9 MB take 60 ms. (Parsing the two values alone, without the merges, was slower.)
    """
    document = json.loads(tokenizer_json)
    ids = [int(token["id"]) for token in document.get("added_tokens") or []]
    vocab = document["model"]["vocab"]
    ids += vocab.values() if isinstance(vocab, dict) else range(len(vocab))  # Unigram: the position is the id
    if not ids:
        raise ValueError("it has no vocabulary")
    return max(ids) + 1


def vocab_size_of_config(config: Mapping[str, Any] | None) -> int | None:
    """`vocab_size` of a config.json, if there is one."""
    size = (config or {}).get("vocab_size")
    return size if isinstance(size, int) else None
