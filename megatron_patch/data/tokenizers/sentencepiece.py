"""A SentencePiece model's file: where it is, and how many pieces it has. Standard library only."""

from __future__ import annotations

from pathlib import Path

from megatron_patch.common.errors import UserError


class PiecesError(UserError, ValueError):
    """No SentencePiece model, or more than one."""


def find_sentencepiece(path: Path) -> Path | None:
    """The SentencePiece model that a path means: itself, or the only one in a folder without tokenizer.json.

    Raises:
        PiecesError: several, none of them called tokenizer.model.
    """
    if path.suffix == ".model" and path.is_file():
        return path
    if (path / "tokenizer.json").is_file():
        return None
    if (path / "tokenizer.model").is_file():
        return path / "tokenizer.model"
    found = sorted(path.glob("*.model"))
    if len(found) > 1:
        raise PiecesError("pieces-several", folder=path, names=[one.name for one in found])
    return found[0] if found else None


def count_pieces(model: bytes) -> int:
    """Pieces of a SentencePiece model: entries of field 1 of its protocol buffer.

    Source: `ModelProto` in sentencepiece_model.proto: all its fields are messages, with length and content.

    Raises:
        PiecesError: not one.
    """
    at, pieces = 0, 0
    while at < len(model):
        tag, at = _varint(model, at)
        size, at = _varint(model, at)
        at += size
        pieces += tag == 1 << 3 | 2
        if tag & 7 != 2 or at > len(model):
            raise PiecesError("pieces-torn")
    if not pieces:
        raise PiecesError("pieces-none")
    return pieces


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while at < len(data):
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    raise PiecesError("pieces-torn")
