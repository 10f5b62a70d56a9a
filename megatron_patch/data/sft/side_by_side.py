"""One row of a file of conversations: what it says, beside what the chat template makes of it.

Left the row, right the rendering with what is trained between ⟦ and ⟧, each answer beside its turn; below what the
template left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from megatron_patch.common.messages import Message, localized
from megatron_patch.common.values import printable
from megatron_patch.data import rows
from megatron_patch.data.columns import by_columns, columns_of
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.rows import Row
from megatron_patch.data.sft.formats import ChatMessage, Conversation, EmptyRow, MalformedRow, UnwantedRow, format_of
from megatron_patch.data.sft.formats.common import REASONING_KEYS
from megatron_patch.data.sft.loss_mask import Turns, one_by_one, trained
from megatron_patch.data.sft.rendering.fidelity import ARGUMENTS, CALL, REASONING, TOOL
from megatron_patch.data.sft.rendering.template import ChatTemplate, Rendered
from megatron_patch.data.sft.tokenize import cut_of

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
    for chunk in rows.chunks(0, path, cut_of(columns_of(path))):
        for row in rows.parse(chunk, path).rows:
            if line == (row.row or row.line):  # of a list, which may be on one line, the number of the row
                return row
    raise DataError("data-no-line", file=path, line=line)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training does with a row, by the variables of the same names."""

    loss: str = "assistant"
    turns: str = "together"
    dropped: str = "lose"
    overlong: str = "truncate"
    seq_length: int = 0
    encode: Callable[[Rendered], Turns] | None = None
    """The turn of each token; without it lengths are not told."""


def compare(
    path: Path, line: int, template: ChatTemplate, width: int, *, colour: bool = False, training: Training | None = None
) -> str:
    """The two columns and what is below them, once for each sample.

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
        named, _ = by_columns(row, columns_of(path))
        conversation = format_of(named).convert(named.record)
        training = training or Training()
        samples = (one_by_one(conversation) if training.turns == "one-by-one" else []) or [conversation]
        rendered = [template.render(sample) for sample in samples]
    except (MalformedRow, EmptyRow, UnwantedRow) as error:
        return "\n".join([printable(localized("side-lost", place=head, why=error)), *_as_it_stands(row)])
    column = max(LEAST_WIDTH, (width - 3) // 2)
    lines = [printable(localized("side-head", place=head, source=template.source))]
    for sample, text in zip(samples, rendered, strict=True):
        lines += _columns(sample, text, column, colour, training)
        lines += ["", *(printable(message.localized()) for message in _becomes(text, training)), ""]
    return "\n".join(lines[:-1])


def _columns(
    conversation: Conversation, rendered: Rendered, column: int, colour: bool, training: Training
) -> Iterator[str]:
    """One sample, in two columns of so many cells."""
    yield _beside(localized("side-says"), localized("side-reads"), column)
    left_out = localized("side-left-out")
    for says, reads, learned in _blocks(conversation, rendered, training.loss):
        yield f"{'─' * column}─┼─{'─' * column}"
        left, right = _wrapped(says, column), _wrapped(f"⟦{reads}⟧" if learned else reads, column)
        for a, b in zip_longest(left, right, fillvalue=""):
            red, green = colour and left_out in a, colour and learned
            yield _beside(a, b, column, RED if red else "", GREEN if green else "")


Block = tuple[str, str, bool]
"""Some messages of the row, the text that stands for them, and whether it is trained."""


def _blocks(conversation: Conversation, rendered: Rendered, loss: str) -> Iterator[Block]:
    """Each turn that may be trained beside its text, and what lies between them beside the text between them."""
    says = partial(_messages, conversation, rendered)
    every = loss == "all"
    answers = [
        number
        for number, message in enumerate(conversation.messages)
        if message["role"] == "assistant" and number not in conversation.context
    ]
    if len(answers) != len(rendered.spans):  # a template that marks other blocks than messages
        yield says(0, len(conversation.messages)), rendered.text if every else marked(rendered, loss), every
        return
    first, at = 0, 0
    for number, (start, end) in zip(answers, rendered.spans, strict=True):
        yield says(first, number), rendered.text[at:start].strip("\n"), every
        yield says(number, number + 1), rendered.text[start:end], loss != "last" or number == answers[-1]
        first, at = number + 1, end
    if rest := rendered.text[at:].strip("\n"):
        yield says(first, len(conversation.messages)), rest, every


def _beside(left: str, right: str, column: int, before: str = "", after: str = "") -> str:
    """Two cells of a line, in these colours."""
    padded = left + " " * max(0, column - cell_len(left))
    left = f"{before}{padded}{PLAIN}" if before else padded
    return f"{left} │ {after}{right}{PLAIN}" if after and right else f"{left} │ {right}".rstrip()


def _messages(conversation: Conversation, rendered: Rendered, first: int, end: int) -> str:
    """Some messages, in front of the first of all the tools."""
    dropped = {(item.message, item.what) for item in rendered.dropped}
    parts = []
    if conversation.tools and not first:
        out = localized("side-left-out") if (None, TOOL) in dropped else ""
        parts.append(f"{out}tools: {json.dumps(conversation.tools, ensure_ascii=False)}")
    for number in range(first, end):
        message = conversation.messages[number]
        context = ", weight 0" if number in conversation.context else ""
        head = f"{number + 1} {message['role']}{context}:"
        parts.append("\n".join([head, *_parts(message, {what for at, what in dropped if at == number + 1})]))
    return "\n\n".join(parts)


def marked(rendered: Rendered, loss: str = "assistant") -> str:
    """The rendering with brackets around what is trained."""
    parts, at = [], 0
    for start, end in rendered.spans[-1:] if loss == "last" else rendered.spans:
        parts += [rendered.text[at:start], "⟦", rendered.text[start:end], "⟧"]
        at = end
    return "".join([*parts, rendered.text[at:]])


def _parts(message: ChatMessage, dropped: set[str]) -> Iterator[str]:
    """Reasoning, text and calls of a message; what the template leaves out says so."""
    calls, out = dropped & {CALL, ARGUMENTS}, localized("side-left-out")
    for key in REASONING_KEYS:
        if message.get(key):
            yield f"{out if REASONING in dropped else ''}{key}: {message[key]}"
    if message.get("content"):
        yield f"{out if dropped - calls - {REASONING} else ''}{message['content']}"
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        yield f"{out if calls else ''}{localized('side-calls', name=function['name'], arguments=arguments)}"


def _becomes(rendered: Rendered, training: Training) -> Iterator[Message]:
    """What is missing, and what becomes of the row for that or for its length."""
    for item in rendered.dropped:
        yield Message("side-by-design", what=item.told) if item.by_design else item.told
    by_design = all(item.by_design for item in rendered.dropped)
    if training.dropped == "lose" and not by_design:
        yield Message("side-dropped")
    elif not rendered.spans and training.loss != "all":
        yield Message("side-none-trained")
    elif too_long := _too_long(rendered, training):
        if not rendered.dropped:
            yield Message("side-nothing-left-out")
        yield too_long
    else:
        yield Message("side-kept" if not by_design else "side-used" if rendered.dropped else "side-whole")


def _too_long(rendered: Rendered, training: Training) -> Message | None:
    """What becomes of more tokens than a row holds; None where there are not as many."""
    turns = training.encode(rendered) if training.encode else None
    most = training.seq_length + 1
    if turns is None or len(turns) <= most:
        return None
    if training.overlong != "truncate":
        code = "side-too-long-drop" if training.overlong == "drop" else "side-too-long-error"
        return Message(code, tokens=len(turns), most=most)
    mask = trained(turns, training.loss)
    left = int(mask[:most].sum())
    code = "side-too-long-cut" if left else "side-too-long-lost"
    return Message(code, tokens=len(turns), most=most, left=left, trained=int(mask.sum()))


def _as_it_stands(row: Row) -> Iterator[str]:
    """The beginning of a row that is not a conversation."""
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
