"""Real token sequences for the layer check: Python's own library, through the checkpoint's own tokenizer."""

from __future__ import annotations

import inspect
from pathlib import Path

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.messages import Message
from megatron_patch.data.tokenizers.sentencepiece import find_sentencepiece

SEQUENCES, LENGTH = 3, 256
MODULES = ("ast", "difflib", "statistics", "textwrap")
"""Modules of the standard library with much prose in them."""


def sample_tokens(folder: Path, vocab_size: int) -> tuple[list[list[int]], Message]:
    """SEQUENCES lists of LENGTH token ids, and one line that says what they are.

    Raises:
        CheckpointError: the tokenizer has tokens that the model has not.
    """
    texts = [_source(name) for name in MODULES]
    model = find_sentencepiece(folder)
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        encode = Tokenizer.from_file(str(folder / "tokenizer.json")).encode
        rows = [encode(text).ids for text in texts]
    elif model is not None:
        from sentencepiece import SentencePieceProcessor

        rows = SentencePieceProcessor(model_file=str(model)).encode(texts)
    else:
        rows = [[(byte * 2654435761 >> 7) % vocab_size for byte in text.encode()] for text in texts]
        return [row[:LENGTH] for row in rows[:SEQUENCES]], Message("check-no-tokenizer", folder=folder)
    chosen = [row[:LENGTH] for row in rows if len(row) >= LENGTH][:SEQUENCES]
    largest = max(token for row in chosen for token in row)
    if largest >= vocab_size:
        raise CheckpointError.at(folder, "check-token-beyond", token=largest, vocabulary=vocab_size)
    return chosen, Message("check-tokens", sequences=len(chosen), length=LENGTH)


def _source(name: str) -> str:
    module = __import__(name)
    return inspect.getsource(module)
