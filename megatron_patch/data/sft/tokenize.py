"""Rows to tokens, in parallel and in order: the work behind a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_patch.data import rows
from megatron_patch.data.rows import Chunk, Cut, Row
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.formats import FORMATS, Conversation, EmptyRow, MalformedRow, describe, recognise
from megatron_patch.data.sft.formats.common import COMMON
from megatron_patch.data.sft.report import EMPTY, MALFORMED
from megatron_patch.data.sft.template import ChatTemplate, Rendered, TemplateError, Tokens, Turns
from megatron_patch.data.workers import in_order

CHUNK_BYTES = 1 << 19
"""Of text in one chunk: about a tenth of a second of one worker."""
ROW_KEYS = frozenset().union(*(kind.keys for kind in FORMATS)) - COMMON
"""Keys of which every row has one."""


@dataclass(kw_only=True)
class Piece:
    """What became of one chunk."""

    file: int
    size: int
    """Bytes of the file that it stands for."""
    tokens: Tokens
    """[sum of lengths], the rows one after the other."""
    turns: Turns
    """[sum of lengths], see `template.PROMPT`."""
    lengths: npt.NDArray[np.int64]
    """[rows used]"""
    places: npt.NDArray[np.int64]
    """[rows used, 2], line and row in the file: see `rows.Row`."""
    rows: int
    lost: list[tuple[str, int, int, str]]
    """Cause, line, row and reason of each row that is not used."""
    formats: Counter[str] = field(default_factory=Counter)
    unused_keys: Counter[str] = field(default_factory=Counter)
    special_rows: int = 0
    """Rows whose texts spell a special token."""


def tokenize_chunk(chunk: Chunk, path: Path, encoder: Encoder, template: ChatTemplate) -> Piece:
    """Parse, recognise, render and tokenize the rows of one chunk.

    Raises:
        TemplateError: the template cannot be masked; names file and line.
        EngineError: see `Encoder.encode`.
    """
    lost: list[tuple[str, int, int, str]] = []
    formats: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    rendered: list[Rendered] = []
    places: list[tuple[int, int]] = []
    special = 0
    parsed = rows.parse(chunk, path).rows
    for row in parsed:
        try:
            conversation = _conversation(row, formats, unused)
            rendered.append(_encodable(template.render(conversation)))
            special += template.spells_special_tokens(conversation)
            places.append((row.line, row.row))
        except EmptyRow as error:
            lost.append((EMPTY, row.line, row.row, str(error)))
        except MalformedRow as error:
            lost.append((MALFORMED, row.line, row.row, str(error)))
        except RecursionError:
            lost.append((MALFORMED, row.line, row.row, "JSON nested too deep"))
        except TemplateError as error:
            raise TemplateError(f"{rows.place(path, row.line, row.row)}: {error}") from None
    encoded = encoder.encode(rendered)
    return Piece(
        file=chunk.start.file,
        size=chunk.size,
        tokens=np.concatenate([tokens for tokens, _ in encoded] or [np.zeros(0, np.int32)]),
        turns=np.concatenate([turns for _, turns in encoded] or [np.zeros(0, np.uint8)]),
        lengths=np.array([len(tokens) for tokens, _ in encoded], dtype=np.int64),
        places=np.array(places, dtype=np.int64).reshape(-1, 2),
        rows=len(parsed),
        lost=lost,
        formats=formats,
        unused_keys=unused,
        special_rows=special,
    )


def _conversation(row: Row, formats: Counter[str], unused: Counter[str]) -> Conversation:
    if row.error is not None:
        raise MalformedRow(row.error)
    kind = recognise(row.record)
    if kind is None:
        raise MalformedRow(describe(row.record))
    formats[kind.name] += 1
    unused.update(str(key) for key in row.record if key not in kind.keys)
    return kind.convert(row.record)


def _encodable(rendered: Rendered) -> Rendered:
    """JSON can spell half a character (`"\\ud83e"` alone); no tokenizer can read it."""
    try:
        rendered.text.encode()
    except UnicodeEncodeError as error:
        half = rendered.text[error.start]
        raise MalformedRow(f"its text holds half a surrogate pair, {half!r}, which is no character") from None
    return rendered


def tokenize_files(files: list[Path], encoder: Encoder, template: ChatTemplate, workers: int) -> Iterator[Piece]:
    """All rows of all files, in their order whatever the number of workers.

    Args:
        workers: processes; 1 works in this one.
    Raises:
        DataError: a file that cannot be read to its end.
        TemplateError, EngineError: see `tokenize_chunk`.
        RuntimeError: a worker was killed.
    """

    def work(chunk: Chunk) -> Piece:
        return tokenize_chunk(chunk, files[chunk.start.file], encoder, template)

    cut = Cut(chunk_bytes=CHUNK_BYTES, row_keys=ROW_KEYS, numbered=True)
    every = (chunk for number, path in enumerate(files) for chunk in rows.chunks(number, path, cut))
    return in_order(work, every, workers)
