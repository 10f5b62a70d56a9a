"""One row of a file of conversations: what it says, beside what the chat template makes of it.

Left the row, right the rendering with what is trained between ⟦ and ⟧, each answer beside its turn; below what the
template left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from megatron_patch.common.values import printable
from megatron_patch.data import rows
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.rows import Cut, Row
from megatron_patch.data.sft.fidelity import ARGUMENTS, CALL, REASONING, REASONING_KEYS, TOOL
from megatron_patch.data.sft.formats import Conversation, EmptyRow, MalformedRow, Message, describe, recognise
from megatron_patch.data.sft.template import ChatTemplate, Rendered
from megatron_patch.data.sft.tokenize import CHUNK_BYTES, ROW_KEYS

LEAST_WIDTH = 20
"""Cells of a column; a Chinese character takes two."""
MOST_SHOWN = 2000
"""Characters of a row that cannot be read."""
GREEN, RED, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"


def row_at(path: Path, line: int) -> Row:
    """The row on a line, or in Parquet the row of that number.

    Raises:
        DataError: there is none.
    """
    cut = Cut(chunk_bytes=CHUNK_BYTES, row_keys=ROW_KEYS, numbered=True)
    for chunk in rows.chunks(0, path, cut):
        for row in rows.parse(chunk, path).rows:
            if line == (row.row or row.line):  # of a list, which may be on one line, the number of the row
                return row
    raise DataError(f"{path} has no row on line {line}")


def compare(path: Path, line: int, template: ChatTemplate, width: int, *, colour: bool = False) -> str:
    """The two columns and what is below them.

    Args:
        width: cells of both columns together.
        colour: what is trained in green, what is left out in red.
    Raises:
        DataError: no such row.
        TemplateError: a template that cannot be used.
    """
    row = row_at(path, line)
    head = rows.place(path, row.line, row.row)
    try:
        conversation = _conversation(row)
        rendered = template.render(conversation)
    except (MalformedRow, EmptyRow) as error:
        return "\n".join([printable(f"{head}: lost: {error}"), *_as_it_stands(row)])
    column = max(LEAST_WIDTH, (width - 3) // 2)
    lines = [printable(f"{head}, under the chat template {template.source}")]
    lines.append(_beside("what the row says", "what is read, trained between ⟦ and ⟧", column))
    for says, reads, trained in _blocks(conversation, rendered):
        lines.append(f"{'─' * column}─┼─{'─' * column}")
        left, right = _wrapped(says, column), _wrapped(f"⟦{reads}⟧" if trained else reads, column)
        for a, b in zip_longest(left, right, fillvalue=""):
            red, green = colour and LEFT_OUT in a, colour and trained
            lines.append(_beside(a, b, column, RED if red else "", GREEN if green else ""))
    return "\n".join([*lines, "", *map(printable, _left_out(rendered))])


LEFT_OUT = "[left out] "
Block = tuple[str, str, bool]
"""Some messages of the row, the text that stands for them, and whether it is trained."""


def _blocks(conversation: Conversation, rendered: Rendered) -> Iterator[Block]:
    """Each trained turn beside its text, and what lies between them beside the text between them."""
    trained = [
        number
        for number, message in enumerate(conversation.messages)
        if message["role"] == "assistant" and number not in conversation.context
    ]
    if len(trained) != len(rendered.spans):  # a template that marks other blocks than messages
        yield says(conversation, rendered), marked(rendered), False
        return
    first, at = 0, 0
    for number, (start, end) in zip(trained, rendered.spans, strict=True):
        yield _messages(conversation, rendered, first, number), rendered.text[at:start].strip("\n"), False
        yield _messages(conversation, rendered, number, number + 1), rendered.text[start:end], True
        first, at = number + 1, end
    if rest := rendered.text[at:].strip("\n"):
        yield _messages(conversation, rendered, first, len(conversation.messages)), rest, False


def _beside(left: str, right: str, column: int, before: str = "", after: str = "") -> str:
    """Two cells of a line, in these colours."""
    padded = left + " " * max(0, column - cell_len(left))
    left = f"{before}{padded}{PLAIN}" if before else padded
    return f"{left} │ {after}{right}{PLAIN}" if after and right else f"{left} │ {right}".rstrip()


def says(conversation: Conversation, rendered: Rendered) -> str:
    """The conversation, message by message."""
    return _messages(conversation, rendered, 0, len(conversation.messages))


def _messages(conversation: Conversation, rendered: Rendered, first: int, end: int) -> str:
    """Some messages, in front of the first of all the tools."""
    dropped = {(item.message, item.what) for item in rendered.dropped}
    parts = []
    if conversation.tools and not first:
        out = LEFT_OUT if (None, TOOL) in dropped else ""
        parts.append(f"{out}tools: {json.dumps(conversation.tools, ensure_ascii=False)}")
    for number in range(first, end):
        message = conversation.messages[number]
        context = ", weight 0" if number in conversation.context else ""
        head = f"{number + 1} {message['role']}{context}:"
        parts.append("\n".join([head, *_parts(message, {what for at, what in dropped if at == number + 1})]))
    return "\n\n".join(parts)


def marked(rendered: Rendered) -> str:
    """The rendering with brackets around what is trained."""
    parts, at = [], 0
    for start, end in rendered.spans:
        parts += [rendered.text[at:start], "⟦", rendered.text[start:end], "⟧"]
        at = end
    return "".join([*parts, rendered.text[at:]])


def _conversation(row: Row) -> Conversation:
    if row.error is not None:
        raise MalformedRow(row.error)
    kind = recognise(row.record)
    if kind is None:
        raise MalformedRow(describe(row.record))
    return kind.convert(row.record)


def _parts(message: Message, dropped: set[str]) -> Iterator[str]:
    """Reasoning, text and calls of a message; what the template leaves out says so."""
    calls = dropped & {CALL, ARGUMENTS}
    for key in REASONING_KEYS:
        if message.get(key):
            yield f"{LEFT_OUT if REASONING in dropped else ''}{key}: {message[key]}"
    if message.get("content"):
        yield f"{LEFT_OUT if dropped - calls - {REASONING} else ''}{message['content']}"
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        yield f"{LEFT_OUT if calls else ''}calls {function['name']} {arguments}"


def _left_out(rendered: Rendered) -> Iterator[str]:
    """What is missing, and what becomes of the row for that."""
    if not rendered.dropped:
        yield "Nothing of it is left out; used."
        return
    for item in rendered.dropped:
        yield f"{item}{' (as is its way with earlier turns)' if item.by_design else ''}"
    if all(item.by_design for item in rendered.dropped):
        yield "Used; MP_SFT_TURNS=one-by-one trains each turn as the last of a sample, with its reasoning."
    else:
        yield "Lost for that; MP_SFT_DROPPED=keep uses it as it is."


def _as_it_stands(row: Row) -> Iterator[str]:
    """The beginning of a row that is no conversation."""
    if row.record is not None:
        text = shown(row.record)
        yield from _visible(text[:MOST_SHOWN] + ("..." if len(text) > MOST_SHOWN else "")).split("\n")


def shown(record: object) -> str:
    """A record as JSON over several lines, as far as it can be written so."""
    try:
        return json.dumps(record, ensure_ascii=False, indent=2)
    except (TypeError, ValueError, RecursionError):
        return repr(type(record))


def _visible(text: str) -> str:
    """With what a terminal would obey written out, line breaks aside."""
    return "\n".join(printable(line) for line in text.expandtabs(4).split("\n"))


def _wrapped(text: str, column: int) -> list[str]:
    console = Console(width=column)
    return [
        part.plain.rstrip()
        for line in _visible(text).split("\n")
        for part in Text(line).wrap(console, column, tab_size=4) or [Text("")]
    ]
