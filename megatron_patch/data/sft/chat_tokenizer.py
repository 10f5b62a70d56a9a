"""What a chat needs of a tokenizer folder besides ids: named special tokens, chat templates, fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from megatron_patch.common.messages import Message
from megatron_patch.data.sft.sidecar import tokenizer_sha256
from megatron_patch.data.tokenizers.folder import FolderError, read_folder
from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError, load_tokenizer


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
    chat_templates: Mapping[str, str]
    """Jinja by name, as shipped with the tokenizer: `default`, `tool_use` and others; empty without one."""
    sha256: str
    """Of tokenizer.json: see `sidecar.tokenizer_sha256`."""
    files_sha256: str = ""
    """Of all files that decide the ids: see `TokenizerFolder.sha256`."""
    difference: Message | None = None
    """See `TextTokenizer.difference`."""

    def has(self, token: str) -> bool:
        """Whether the vocabulary has a token."""
        return self.backend.token_to_id(token) is not None

    @property
    def special_tokens(self) -> list[str]:
        """The text of every added token that is marked special, and of the named ones."""
        added = self.backend.get_added_tokens_decoder().values()
        return list(dict.fromkeys([*(token.content for token in added if token.special), *self.named_tokens.values()]))

    @property
    def pad_id(self) -> int:
        """What fills a row behind its samples: the pad token, else the end of text. Never trained on."""
        name = "pad_token" if "pad_token" in self.named_tokens else "eos_token"
        found = self.backend.token_to_id(self.named_tokens[name])
        if found is None:
            raise TokenizerError("token-absent", name=name, token=self.named_tokens[name]).about(self.path)
        return found


def load_chat_tokenizer(path: str | Path) -> ChatTokenizer:
    """Read a tokenizer folder.

    Raises:
        TokenizerError: what is missing or wrong there.
    """
    folder = Path(path)
    loaded = load_tokenizer(folder)
    # Only conversations are encoded with it, in which the template writes every token: what is left to the
    # post-processor is to trim white space off the places of tokens, which would move the ends of turns.
    loaded.backend.post_processor = None
    try:
        read = read_folder(folder)
        templates = read.chat_templates
    except FolderError as error:
        raise TokenizerError.of(error.messages) from None
    return ChatTokenizer(
        backend=loaded.backend,
        path=folder,
        vocab_size=loaded.vocab_size,
        named_tokens=loaded.named_tokens,
        chat_templates=templates,
        sha256=tokenizer_sha256(folder),
        files_sha256=read.sha256(),
        difference=loaded.difference,
    )
