"""A Hugging Face tokenizer folder, read for one purpose: text to token ids, as `tokenizer(text)` gives them.

`transformers` imports torch, which costs seconds; most folders (Llama 3's among them) need only their
`tokenizer.json`, so that is read with the `tokenizers` library. Folders whose class rebuilds the tokenizer from
other files go through `transformers`, and the caller is told why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""`tokenizer_class` values for which transformers uses `tokenizer.json` as it is."""


class TokenizerError(ValueError):
    """A folder that holds no usable tokenizer."""


class TextTokenizer:
    """Encodes batches of texts on all cores, special tokens included (BOS where the tokenizer adds one)."""

    def __init__(self, backend: Tokenizer, vocab_size: int, eod_token: str, note: str) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.vocab_size = vocab_size
        """`len(tokenizer)` of Hugging Face: added tokens included, not padded."""
        self.eod_token = eod_token
        """Ends a document: the tokenizer's `eos_token`, as `HuggingFaceTokenizer.eod` of megatron-core 0.19.2."""
        self.note = note
        """How it was loaded, for the report."""
        eod_id = backend.token_to_id(eod_token)
        if eod_id is None:
            raise TokenizerError(f"eos_token {eod_token!r} is not in the vocabulary")
        self.eod_id: int = eod_id

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, in order. RAYON_NUM_THREADS limits the threads."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts)]


def load_tokenizer(folder: Path) -> TextTokenizer:
    """Read a tokenizer folder; nothing is downloaded and no code of the folder runs.

    Raises:
        TokenizerError: what is missing or wrong there.
    """
    if not folder.is_dir():
        raise TokenizerError(f"{folder} is not a folder; wanted a Hugging Face tokenizer folder")
    config_file = folder / "tokenizer_config.json"
    if not config_file.is_file():
        raise TokenizerError(f"{folder} has no tokenizer_config.json; wanted a Hugging Face tokenizer folder")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if reason := _why_not_plain(folder, config):
            return _through_transformers(folder, reason)
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except TokenizerError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise TokenizerError(f"{folder} holds no readable tokenizer: {error}") from error
    size = backend.get_vocab_size(with_added_tokens=True)
    return TextTokenizer(backend, size, _content(config["eos_token"]), "tokenizer.json as it is")


def _why_not_plain(folder: Path, config: dict[str, Any]) -> str:
    """Why transformers might not use tokenizer.json unchanged; empty if it does."""
    if not (folder / "tokenizer.json").is_file():
        return "there is no tokenizer.json"
    if config.get("tokenizer_class") not in PLAIN_CLASSES:
        return f"tokenizer_class is {config.get('tokenizer_class')}"
    if not config.get("eos_token"):
        return "tokenizer_config.json names no eos_token"
    if changed := [key for key in ("add_bos_token", "add_eos_token", "split_special_tokens") if key in config]:
        return f"tokenizer_config.json sets {', '.join(changed)}"
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
    known = {str(token["id"]): token["content"] for token in added}
    if any(known.get(key) != token["content"] for key, token in config.get("added_tokens_decoder", {}).items()):
        return "tokenizer_config.json adds tokens that tokenizer.json does not have"
    return ""


def _through_transformers(folder: Path, reason: str) -> TextTokenizer:
    from transformers import AutoTokenizer  # imports torch: only where it must be

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise TokenizerError(f"{folder}: {type(tokenizer).__name__} has no fast implementation")
    if tokenizer.eos_token is None:
        raise TokenizerError(f"{folder} names no eos_token, which ends a document")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return TextTokenizer(backend, len(tokenizer), tokenizer.eos_token, f"through transformers: {reason}")


def _content(token: str | dict[str, str]) -> str:
    return token if isinstance(token, str) else token["content"]
