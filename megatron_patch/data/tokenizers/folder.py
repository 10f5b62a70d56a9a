"""What stands in a tokenizer folder, read as transformers reads it. Standard library only.

Four files say which tokens there are: tokenizer.json, tokenizer_config.json, and in older folders
special_tokens_map.json and added_tokens.json. Source: `PreTrainedTokenizerBase._from_pretrained` and
`TokenizersBackend.__init__` of transformers 5.23. Paths are kept as they are written: in the hub's cache each file is
a symbolic link to a blob, which has neither its name nor its neighbours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import is_whole, parse_json, read_json
from megatron_patch.models.hf_config import LARGEST

LARGEST_ID = LARGEST["vocab_size"] - 1
"""Of a token; beyond it no embedding goes."""

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Of which the ids are made."""
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""`tokenizer_class` values for which transformers uses `tokenizer.json` as it is."""
PLAIN_MODELS = (None, "", "llama", "qwen3", "gemma3", "gemma3_text")
"""`model_type` values of a config.json beside it that leave that so."""
ENDOFTEXT_CLASSES = ("GPT2Tokenizer", "Qwen2Tokenizer")
"""Classes that bring `<|endoftext|>` of their own as unk_token."""
QWEN2 = "qwen2"
"""Beside a config.json of this model_type, transformers takes Qwen2Tokenizer whatever class is named: it has a
normalizer and a way to cut words and digits of its own, in place of those in tokenizer.json."""
HARMLESS = frozenset(
    (
        *NAMED_TOKENS, "added_tokens_decoder", "additional_special_tokens", "backend", "chat_template",
        "clean_up_tokenization_spaces", "errors", "extra_special_tokens", "is_local", "local_files_only",
        "model_input_names", "model_max_length", "model_specific_special_tokens", "name_or_path", "padding_side",
        "processor_class", "response_template", "special_tokens_map_file", "tokenizer_class", "tokenizer_file",
        "truncation_side",
    )
)  # fmt: skip
"""Keys of tokenizer_config.json that change no id, or whose tokens are looked at one by one."""
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


class FolderError(UserError, ValueError):
    """A file of the folder that is not what it should be."""


@dataclass(frozen=True, kw_only=True)
class WantedToken:
    """A token that a file beside tokenizer.json names."""

    content: str
    id: int | None = None
    """None: the next free one, where the vocabulary does not have it."""
    flags: Mapping[str, bool] | None = None
    """Of FLAGS; None where the file gives the text alone."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFolder:
    """The small files of a tokenizer folder."""

    path: Path
    config: Mapping[str, Any]
    """tokenizer_config.json, with special_tokens_map.json where transformers still reads that."""
    older: Mapping[str, int]
    """added_tokens.json, where transformers still reads it."""
    model_type: str | None
    """Of a config.json beside it."""

    @property
    def named_tokens(self) -> dict[str, str]:
        """`bos_token` and its like, then a model's own, such as `image_token`, as text; only those that exist."""
        named = {name: _content(self.config.get(name)) for name in NAMED_TOKENS}
        named |= {name: _content(token) for name, token in self._own_named_tokens().items()}
        return {name: text for name, text in named.items() if text}

    def _own_named_tokens(self) -> dict[str, Any]:
        others = {name: token for name, token in self.config.items() if name.endswith("_token")}
        found = {name: token for name, token in others.items() if name not in NAMED_TOKENS and isinstance(token, str)}
        for key in ("extra_special_tokens", "model_specific_special_tokens"):
            if isinstance(tokens := self.config.get(key), Mapping):
                found |= tokens
        return found

    @property
    def chat_templates(self) -> dict[str, str]:
        """Chat templates by name; the one that has none is `default`. Files win over tokenizer_config.json.

        Raises:
            FolderError: a list of templates that is none.
        """
        files = {"default": self.path / "chat_template.jinja"}
        files |= {file.stem: file for file in sorted((self.path / "additional_chat_templates").glob("*.jinja"))}
        if found := {name: file for name, file in files.items() if file.is_file()}:
            return {name: file.read_text(encoding="utf-8") for name, file in found.items()}
        template = self.config.get("chat_template")
        try:
            if isinstance(template, list):
                return {str(entry["name"]): str(entry["template"]) for entry in template}
        except (TypeError, KeyError):
            raise FolderError("folder-templates", folder=self.path) from None
        return {"default": str(template)} if template else {}

    def wanted_tokens(self) -> Iterator[WantedToken]:
        """Every token that the files beside tokenizer.json name, in the order in which transformers adds them.

        Raises:
            FolderError: an entry that is not a token.
        """
        for number, token in sorted(_whole_numbers(self.config.get("added_tokens_decoder") or {}, self.path)):
            yield _wanted(token, number)
        for text, number in self.older.items():
            yield WantedToken(content=text, id=number)
        yield from (_wanted(self.config[name]) for name in NAMED_TOKENS if self.config.get(name))
        yield from map(_wanted, self._own_named_tokens().values())
        extra = self.config.get("extra_special_tokens")
        used = extra if isinstance(extra, list) and extra else self.config.get("additional_special_tokens")
        yield from map(_wanted, used or [])
        name = str(self.config.get("tokenizer_class")).removesuffix("Fast")
        if name in ENDOFTEXT_CLASSES or self.model_type == QWEN2:
            yield WantedToken(content="<|endoftext|>")

    def sha256(self) -> str:
        """Of the files that decide the ids: the same hash, the same ids."""
        parts = [(name, self.path / name) for name in (*FILES, "config.json") if (self.path / name).is_file()]
        digests = [(name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in parts]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()

    def why_not_plain(self) -> Message | None:
        """Why transformers might not use tokenizer.json unchanged, tokens aside; None if it does."""
        name = self.config.get("tokenizer_class")
        if not (self.path / "tokenizer.json").is_file():
            return Message("plain-no-tokenizer-json")
        if name not in PLAIN_CLASSES:
            return Message("plain-class", name=name)
        if self.model_type not in PLAIN_MODELS:
            return Message("plain-model-type", name=self.model_type)
        if not self.config.get("eos_token"):
            return Message("plain-no-eos")
        strange = [key for key in self.config if key not in HARMLESS and not key.endswith("_token")]
        strange += [key for key in ("add_bos_token", "add_eos_token") if key in self.config]
        if {"extra_special_tokens", "additional_special_tokens"} <= self.config.keys():
            strange.append("additional_special_tokens")
        return Message("plain-sets", keys=strange) if strange else None


def read_folder(path: Path) -> TokenizerFolder:
    """Read the small files; none of them has to exist.

    Raises:
        FolderError: one that is not a JSON object.
    """
    config, model = _read_json(path / "tokenizer_config.json"), _read_json(path / "config.json")
    older: dict[str, int] = {}
    if "added_tokens_decoder" not in config:
        config |= _read_json(path / "special_tokens_map.json")
        older = _older_ids(path / "added_tokens.json")
    return TokenizerFolder(path=path, config=config, older=older, model_type=model.get("model_type"))


def _older_ids(path: Path) -> dict[str, int]:
    ids = _read_json(path)
    for text, number in ids.items():
        if not is_whole(number, 0, 1 << 31):
            raise FolderError("folder-token-id", token=text[:60], id=str(number)[:60]).about(path)
    return ids


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise FolderError("folder-not-json", file=path, error=error) from None
    if not isinstance(content, dict):
        raise FolderError("json-not-object").about(path)
    return content


def _whole_numbers(tokens: object, path: Path) -> Iterator[tuple[int, Any]]:
    if not isinstance(tokens, Mapping):
        raise FolderError("folder-decoder", folder=path)
    for key, token in tokens.items():
        if not (str(key).isdecimal() and len(str(key)) < 10):
            raise FolderError("folder-decoder-id", folder=path, id=key)
        yield int(key), token


def _wanted(token: Any, number: int | None = None) -> WantedToken:
    text = _content(token)
    if not text:
        raise FolderError("folder-token", token=str(token)[:60])
    flags = {name: bool(token.get(name, False)) for name in FLAGS} if isinstance(token, Mapping) else None
    return WantedToken(content=text, id=number, flags=flags)


def _content(token: Any) -> str:
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else ""


def next_ids(vocab: Mapping[str, int], size: int, tokens: Iterator[WantedToken]) -> dict[str, int]:
    """The ids that tokens get which the vocabulary does not have.

    Args:
        vocab: of tokenizer.json, its added tokens included.
        size: pieces of its model alone.
    Source: `AddedVocabulary::add_tokens` of tokenizers 0.23.
    """
    new: dict[str, int] = {}
    following = max(size, max(vocab.values(), default=-1) + 1)
    for token in tokens:
        if token.content not in vocab and token.content not in new:
            new[token.content] = following
            following += 1
    return new


def count_ids_of(folder: Path, model_type: str | None = None) -> int:
    """Highest token id + 1 of a folder, with the tokens that only its other files add.

    Args:
        model_type: of the config.json that the tokenizer will lie beside; else of the one it lies beside.
    Raises:
        ValueError, KeyError, TypeError, AttributeError: a file that is not what it should be.
    """
    vocab, size = read_vocabulary((folder / "tokenizer.json").read_text(encoding="utf-8"))
    found = read_folder(folder)
    found = replace(found, model_type=model_type) if model_type else found
    new = next_ids(vocab, size, found.wanted_tokens())
    return max(*vocab.values(), *new.values(), -1) + 1


def read_vocabulary(tokenizer_json: str) -> tuple[dict[str, int], int]:
    """The id of each token, added ones included, and how many the model has without those.

    Llama 3's 9 MB take 60 ms. (Parsing the two values alone, without the merges, was slower.)
    """
    document = parse_json(tokenizer_json, large=True)
    found = document["model"]["vocab"]
    # Unigram: a list of pieces and scores; the position is the id
    vocab = dict(found) if isinstance(found, dict) else {piece[0]: number for number, piece in enumerate(found)}
    size = len(vocab) if isinstance(found, dict) else len(found)
    vocab |= {token["content"]: token["id"] for token in document.get("added_tokens") or []}
    if not vocab:
        raise FolderError("tokenizer-empty")
    _check_ids(vocab)
    return vocab, size


def _check_ids(vocab: Mapping[str, Any]) -> None:
    if set(map(type, vocab.values())) == {int} and min(vocab.values()) >= 0 and max(vocab.values()) <= LARGEST_ID:
        return
    token, number = next((token, number) for token, number in vocab.items() if not is_whole(number, 0, LARGEST_ID))
    raise FolderError("folder-token-id", token=token[:60], id=str(number)[:60])
