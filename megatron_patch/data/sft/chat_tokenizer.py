"""What a chat needs of a tokenizer folder besides ids: named special tokens, the chat template, a fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from megatron_patch.data.sft.sidecar import tokenizer_sha256
from megatron_patch.data.tokenizer import TokenizerError, load_tokenizer

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, kw_only=True)
class ChatTokenizer:
    """A tokenizer folder as the conversations' side sees it."""

    backend: tokenizers.Tokenizer
    """Its `encode_batch` gives ids and character offsets."""
    path: Path
    vocab_size: int
    """`len(tokenizer)` of Hugging Face: added tokens included, not padded."""
    named_tokens: Mapping[str, str]
    """`bos_token` and its like, as text; only those that exist."""
    chat_template: str | None
    """Jinja, as shipped with the tokenizer."""
    sha256: str
    """Of the file that decides the ids: see `sidecar.tokenizer_sha256`."""

    @property
    def special_tokens(self) -> list[str]:
        """The text of every added token that is marked special."""
        return [token.content for token in self.backend.get_added_tokens_decoder().values() if token.special]

    @property
    def pad_id(self) -> int:
        """What fills a row behind its samples: the pad token, else the end of text. Never trained on."""
        name = "pad_token" if "pad_token" in self.named_tokens else "eos_token"
        found = self.backend.token_to_id(self.named_tokens[name])
        if found is None:
            raise TokenizerError(f"{self.path}: {name} {self.named_tokens[name]!r} is not in the vocabulary")
        return found


def load_chat_tokenizer(path: str | Path) -> ChatTokenizer:
    """Read a tokenizer folder.

    Raises:
        TokenizerError: what is missing or wrong there.
    """
    folder = Path(path)
    loaded = load_tokenizer(folder)
    config = _read_json(folder / "tokenizer_config.json")
    named = _named_tokens(config, _read_json(folder / "special_tokens_map.json"))
    # Only conversations are encoded with it, in which the template writes every token: what is left to the
    # post-processor is to trim white space off the places of tokens, which would move the ends of turns.
    loaded.backend.post_processor = None
    return ChatTokenizer(
        backend=loaded.backend,
        path=folder,
        vocab_size=loaded.vocab_size,
        named_tokens={"eos_token": loaded.eod_token, **named},
        chat_template=_chat_template(folder, config),
        sha256=tokenizer_sha256(folder),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path}: {error}") from None
    return content


def _named_tokens(config: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, str]:
    """`tokenizer_config.json` wins over the older `special_tokens_map.json`; a token is a string or an object."""
    named = {}
    for name in NAMED_TOKENS:
        token = config.get(name) or older.get(name)
        if isinstance(token, Mapping):
            token = token.get("content")
        if token:
            named[name] = str(token)
    return named


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """`chat_template.jinja` wins; in the config it is a string, or a list of named ones, of which `default`."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template: str | list[dict[str, str]] | None = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        if "default" not in named:
            raise TokenizerError(f"{folder} has chat templates {', '.join(named)}, and none called 'default'")
        return named["default"]
    return template
