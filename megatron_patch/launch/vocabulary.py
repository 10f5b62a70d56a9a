"""The tokenizer's folder, read without a tokenizer library: is it one, and how many ids does it have?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A Hugging Face tokenizer on disk."""

    path: str
    """Its folder, absolute."""
    ids: int | None
    """Highest token id + 1; None where only a tokenizer.model says it."""


class TokenizerError(ValueError):
    """A folder without a usable tokenizer."""


def read_tokenizer(folder: str) -> Tokenizer:
    """Find the tokenizer in a folder and count its ids.

    Raises:
        TokenizerError: no folder, no tokenizer in it, or a tokenizer.json that is not one.
    """
    path = Path(folder)
    if not path.is_dir():
        raise TokenizerError(f"{folder} is not a folder")
    if not (path / "tokenizer.json").is_file():
        if (path / "tokenizer.model").is_file():
            return Tokenizer(path=str(path.resolve()), ids=None)
        raise TokenizerError(f"{folder} holds no tokenizer.json")
    try:
        ids = count_ids((path / "tokenizer.json").read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise TokenizerError(f"{path / 'tokenizer.json'} cannot be read: {type(error).__name__}: {error}") from error
    return Tokenizer(path=str(path.resolve()), ids=ids)


def count_ids(tokenizer_json: str) -> int:
    """Highest token id + 1, over the vocabulary and the added tokens.

    Only those two values are parsed: the merges are two thirds of Llama's 9 MB and would cost 100 ms.
    """
    vocab = _value_of("vocab", r"[{\[]", tokenizer_json)
    added = _value_of("added_tokens", r"\[", tokenizer_json)
    ids = [token["id"] for token in added or []]
    if isinstance(vocab, dict):
        ids += vocab.values()
    elif isinstance(vocab, list):  # Unigram: the position is the id
        ids.append(len(vocab) - 1)
    if not ids:
        raise ValueError("it has no vocabulary")
    return int(max(ids)) + 1


def _value_of(key: str, opening: str, document: str) -> Any:
    """The first value of a key that opens with a bracket; a token of that name has a number as value."""
    found = re.search(rf'"{key}"\s*:\s*(?={opening})', document)
    return json.JSONDecoder().raw_decode(document, found.end())[0] if found else None


def vocab_size_of_config(config: Mapping[str, Any] | None) -> int | None:
    """`vocab_size` of a config.json, if there is one."""
    size = (config or {}).get("vocab_size")
    return size if isinstance(size, int) else None
