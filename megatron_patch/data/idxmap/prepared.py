"""Whether a run may pretrain on an idxmap, as far as it is quickly seen. Standard library only: the launcher asks.

`check_idxmap` looks further, in a process of its own, before a run starts.
"""

from __future__ import annotations

from array import array
from pathlib import Path

from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import read_json
from megatron_patch.data.idxmap.reader import read_head

LOOKED_AT = 1 << 16
"""Bytes of tokens, at the beginning and at the end of a .bin."""
CODES = {"uint8": "B", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint16": "H"}


def problems(prefix: str, *, vocab_size: int, tokenizer_sha256: str | None) -> list[Message]:
    """Why this dataset cannot be pretrained on; empty if nothing is seen.

    Args:
        vocab_size: ids must be below it.
        tokenizer_sha256: of the run's tokenizer.json, else of its SentencePiece model; None where it is not known.
    Raises:
        BrokenIndex: its .idx cannot be read.
    """
    if Path(f"{prefix}.sft.json").is_file():
        return [Message("idxmap-of-sft", prefix=prefix)]
    made_with = tokenizer_of(prefix)
    if made_with and tokenizer_sha256 and made_with != tokenizer_sha256:
        sums = {"built": made_with[:12], "wanted": tokenizer_sha256[:12]}
        return [Message("idxmap-other-tokenizer", prefix=prefix, **sums)]
    token_type = read_head(Path(f"{prefix}.idx")).token_type
    with Path(f"{prefix}.bin").open("rb") as file:
        size = file.seek(0, 2)
        for at in sorted({0, max(0, size - LOOKED_AT)}):
            file.seek(at)
            tokens = array(CODES[token_type])
            block = file.read(LOOKED_AT)
            tokens.frombytes(block[: len(block) // tokens.itemsize * tokens.itemsize])
            if found := _wrong(tokens, vocab_size):
                number, token = found
                place = {"file": f"{prefix}.bin", "byte": at + number * tokens.itemsize}
                return [Message("idxmap-wrong-id", **place, token=token, why=why(token, vocab_size))]
    return []


def why(token: int, vocab_size: int) -> Message:
    """What a number that is not an id says about the data."""
    if token < 0:
        return Message("id-negative")
    return Message("id-beyond", ids=vocab_size)


def _wrong(tokens: array[int], vocab_size: int) -> tuple[int, int] | None:
    if not tokens or (min(tokens) >= 0 and max(tokens) < vocab_size):
        return None
    return next((number, token) for number, token in enumerate(tokens) if not 0 <= token < vocab_size)


def tokenizer_of(prefix: str) -> str | None:
    """SHA-256 of the tokenizer that PREFIX.build.json names; None without one."""
    try:
        made = read_json(Path(f"{prefix}.build.json"))
    except (OSError, ValueError, RecursionError):
        return None
    found = made.get("tokenizer_sha256") if isinstance(made, dict) else None
    return found if isinstance(found, str) and found != "none" else None
