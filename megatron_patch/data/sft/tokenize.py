"""Rows to tokens, in parallel and in order: the work behind a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.data import rows
from megatron_patch.data.columns import Columns, by_columns, columns_of
from megatron_patch.data.rows import Chunk, Cut, Row
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.formats import (
    Conversation,
    EmptyRow,
    Format,
    MalformedRow,
    UnwantedRow,
    format_of,
    row_keys_of,
    unread_marks,
)
from megatron_patch.data.sft.loss_mask import Tokens, Turns, one_by_one
from megatron_patch.data.sft.rendering.fidelity import Dropped
from megatron_patch.data.sft.rendering.template import ChatTemplate, Rendered, TemplateError
from megatron_patch.data.sft.report import DROPPED, EARLIER_REASONING, EMPTY, MALFORMED, UNWANTED, Unread
from megatron_patch.data.workers import in_order

CHUNK_BYTES = 1 << 19
"""Of text in one chunk: about a tenth of a second of one worker."""
LEAVING_OUT = ("lose", "keep")
"""What becomes of a row of which the chat template leaves out what is to be trained."""
TURNS = ("together", "one-by-one")
"""Samples of a conversation: one, or one for each trained turn."""


Unused = tuple[str, int, int, Message]


@dataclass(kw_only=True)
class TokenizedRows:
    """What became of one chunk."""

    file: int
    size: int
    """Bytes of the file that it stands for."""
    tokens: Tokens
    """[sum of lengths], the rows one after the other."""
    turns: Turns
    """[sum of lengths], see `loss_mask.PROMPT`."""
    lengths: npt.NDArray[np.int64]
    """[rows used]"""
    places: npt.NDArray[np.int64]
    """[rows used, 2], line and row in the file: see `rows.Row`."""
    rows: int
    lost: list[Unused]
    """Cause, line, row and reason of each row that is not used."""
    formats: Counter[str] = field(default_factory=Counter)
    unused_keys: Counter[str] = field(default_factory=Counter)
    unread: dict[str, Unread] = field(default_factory=dict)
    """Keys of turns that nobody reads."""
    special_rows: int = 0
    """Rows whose texts spell a special token."""
    rows_without_eos: int = 0
    """Rows whose last trained turn ends without one."""
    noted: list[Unused] = field(default_factory=list)
    """As `lost`, of rows that are used all the same."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What becomes of a conversation."""

    dropped: str = "lose"
    """Of LEAVING_OUT."""
    turns: str = "together"
    """Of TURNS."""

    def __post_init__(self) -> None:
        for name, valid in (("dropped", LEAVING_OUT), ("turns", TURNS)):
            if (value := getattr(self, name)) not in valid:
                raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}")


AS_IT_COMES = Rules()


CAUSE_OF: dict[type[UserError], str] = {EmptyRow: EMPTY, UnwantedRow: UNWANTED, MalformedRow: MALFORMED}
"""Under which the report counts a row that its format refuses."""


class LeftOut(UserError, ValueError):
    """The chat template leaves out what is to be trained, and such rows are lost."""

    cause: str
    """Of DROPPED."""


def _left_out(dropped: list[Dropped]) -> LeftOut:
    first, more = dropped[0], len(dropped) - 1
    error = LeftOut.of([Message("row-left-out-more", first=first.told, more=more) if more else first.told])
    error.cause = DROPPED[first.what]
    return error


def tokenize_chunk(
    chunk: Chunk,
    path: Path,
    encoder: Encoder,
    template: ChatTemplate,
    rules: Rules = AS_IT_COMES,
    columns: Columns | None = None,
) -> TokenizedRows:
    """Parse, recognise, render and tokenize the rows of one chunk.

    Raises:
        TemplateError: the template cannot be masked; names file and line.
        EngineError: see `Encoder.encode`.
    """
    lost: list[Unused] = []
    noted: list[Unused] = []
    formats: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    unread: dict[str, Unread] = {}
    rendered: list[Rendered] = []
    places: list[tuple[int, int]] = []
    special = count = 0
    for row in rows.parse(chunk, path).rows:
        count += 1
        try:
            row, others = by_columns(row, columns)
            unused.update(others)
            kind = format_of(row)
            conversation = _conversation(kind, row, formats, unused)
            for key in _unread_keys(kind, row.record, template):
                unread.setdefault(key, Unread(line=row.line, row=row.row)).count += 1
            texts, notes = _samples_of(conversation, template, rules)
            count += max(0, len(texts) - 1)
            rendered += texts
            special += template.spells_special_tokens(conversation)
            places += [(row.line, row.row)] * len(texts)
            noted += [(cause, row.line, row.row, why) for cause, why in notes]
        except (LeftOut, EmptyRow, UnwantedRow, MalformedRow, RecursionError) as error:
            cause, why = _why_lost(error)
            lost.append((cause, row.line, row.row, why))
        except TemplateError as error:
            raise error.about(rows.place(path, row.line, row.row)) from None
    encoded = encoder.encode(rendered)
    return TokenizedRows(
        file=chunk.start.file,
        size=chunk.size,
        tokens=np.concatenate([tokens for tokens, _ in encoded] or [np.zeros(0, np.int32)]),
        turns=np.concatenate([turns for _, turns in encoded] or [np.zeros(0, np.uint8)]),
        lengths=np.array([len(tokens) for tokens, _ in encoded], dtype=np.int64),
        places=np.array(places, dtype=np.int64).reshape(-1, 2),
        rows=count,
        lost=lost,
        formats=formats,
        unused_keys=unused,
        unread=unread,
        special_rows=special,
        rows_without_eos=sum(not template.ends(item) for item in rendered),
        noted=noted,
    )


def _why_lost(error: UserError | RecursionError) -> tuple[str, Message]:
    """The cause under which the report counts a row that cannot be used, and the reason."""
    if isinstance(error, RecursionError):
        return MALFORMED, Message("row-too-deep")
    cause = error.cause if isinstance(error, LeftOut) else CAUSE_OF[type(error)]
    return cause, error.messages[0]


def _samples_of(
    conversation: Conversation, template: ChatTemplate, rules: Rules
) -> tuple[list[Rendered], list[tuple[str, Message]]]:
    """A conversation as text, one for each sample; and what is noted of it, a cause and a sentence each.

    Raises:
        LeftOut: see `_checked`.
        TemplateError: the template cannot be masked.
    """
    notes: list[tuple[str, Message]] = []
    samples = one_by_one(conversation) if rules.turns == "one-by-one" else [conversation]
    return [_checked(_encodable(template.render(sample)), rules, notes) for sample in samples], notes


def cut_of(columns: Columns | None) -> Cut:
    """How a file with such columns is cut."""
    return Cut(chunk_bytes=CHUNK_BYTES, row_keys=row_keys_of(columns.row if columns else None), numbered=True)


def _checked(rendered: Rendered, rules: Rules, notes: list[tuple[str, Message]]) -> Rendered:
    """Refuse or note what the template has left out.

    Raises:
        LeftOut: something that is to be trained, and such rows are lost.
    """
    if earlier := [item for item in rendered.dropped if item.by_design]:
        notes.append((EARLIER_REASONING, earlier[0].told))
    if others := [item for item in rendered.dropped if not item.by_design]:
        error = _left_out(others)
        if rules.dropped == "lose":
            raise error
        notes.append((error.cause, error.messages[0]))
    return rendered


def _conversation(kind: Format, row: Row, formats: Counter[str], unused: Counter[str]) -> Conversation:
    formats[kind.name] += 1
    strange = (str(key) for key in row.record if key not in kind.keys)
    unused.update([*strange, *kind.others(row.record), *unread_marks(row.record)])
    return kind.convert(row.record)


def _unread_keys(kind: Format, record: Mapping[str, Any], template: ChatTemplate) -> Iterator[str]:
    """Keys of a row's turns that neither its format nor the chat template reads, once for each turn."""
    for turn in kind.turns(record):
        for key, value in turn.items():
            if key not in kind.turn_keys and value is not None and not (kind.passes_on and template.reads(str(key))):
                yield str(key)


def _encodable(rendered: Rendered) -> Rendered:
    """JSON can spell half a character (`"\\ud83e"` alone); no tokenizer can read it."""
    try:
        rendered.text.encode()
    except UnicodeEncodeError as error:
        raise MalformedRow("row-half-character", half=repr(rendered.text[error.start])) from None
    return rendered


def tokenize_files(
    files: list[Path], encoder: Encoder, template: ChatTemplate, workers: int, rules: Rules = AS_IT_COMES
) -> Iterator[TokenizedRows]:
    """All rows of all files, in their order whatever the number of workers.

    Args:
        workers: processes; 1 works in this one.
    Raises:
        DataError: a file that cannot be read to its end, or a dataset_info.json that cannot be followed.
        TemplateError, EngineError: see `tokenize_chunk`.
        WorkerKilled: it was.
    """

    columns = list(map(columns_of, files))

    def work(chunk: Chunk) -> TokenizedRows:
        number = chunk.start.file
        return tokenize_chunk(chunk, files[number], encoder, template, rules, columns[number])

    every = (chunk for number, path in enumerate(files) for chunk in rows.chunks(number, path, cut_of(columns[number])))
    return in_order(work, every, workers)
