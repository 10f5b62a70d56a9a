"""What was not used, and why: counted by cause, the first few with file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.files import write_json
from megatron_patch.common.messages import Message, read_message
from megatron_patch.data.rows import place
from megatron_patch.data.sft.rendering.fidelity import (
    ARGUMENTS,
    CALL,
    PARTS,
    REASONING,
    RESULT,
    SYSTEM,
    TEXT,
    TOOL,
    USER,
)

MALFORMED, EMPTY, TOO_LONG, NOTHING_TRAINED = "malformed", "empty", "too long", "no trainable token"
UNWANTED = "marked as not to be trained"
DROPPED = {
    what: f"{what} left out by the chat template"
    for what in (TEXT, REASONING, CALL, ARGUMENTS, TOOL, SYSTEM, USER, RESULT)
}
"""What a row says and its rendering does not."""
CAUSES = (MALFORMED, EMPTY, UNWANTED, *DROPPED.values(), TOO_LONG, NOTHING_TRAINED)
EARLIER_REASONING = "reasoning of earlier turns left out by the chat template, as is its way"
"""A note; `one-by-one` makes each turn the last of a sample."""
TOLD = {
    MALFORMED: Message("cause-malformed"),
    EMPTY: Message("cause-empty"),
    UNWANTED: Message("cause-unwanted"),
    TOO_LONG: Message("cause-too-long"),
    NOTHING_TRAINED: Message("cause-nothing-trained"),
    EARLIER_REASONING: Message("cause-earlier-reasoning"),
    **{cause: Message("cause-left-out", part=PARTS[what]) for what, cause in DROPPED.items()},
}
"""What each is called; files keep their English names."""
HINTS = {
    EARLIER_REASONING: Message("sft-hint-turns"),
    UNWANTED: Message("sft-hint-unwanted"),
    **dict.fromkeys(DROPPED.values(), Message("sft-hint-dropped")),
}
"""What to do about such rows."""
SHOWN = 5
"""Examples kept of each cause."""


class TooMuchLost(UserError, ValueError):
    """More rows than allowed are not used, or any is too long where that is an error; the message shows which."""


@dataclass(kw_only=True)
class Example:
    """One row that is not used."""

    file: str
    line: int
    """From 1; 0 where there are none (Parquet, idxmap)."""
    row: int
    """From 1; 0 where the line alone says which it is."""
    why: Message

    @property
    def told(self) -> Message:
        """For people."""
        return Message("at", path=place(self.file, self.line, self.row), what=self.why)


@dataclass(kw_only=True)
class Cause:
    """How often something happened, and where first."""

    count: int = 0
    first: list[Example] = field(default_factory=list)

    def add(self, file: str, line: int, row: int, why: Message) -> None:
        """Count one row."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(Example(file=file, line=line, row=row, why=why))

    def lines(self, code: str, **values: object) -> list[Message]:
        """What happened, and its first rows."""
        found = [Message(code, count=self.count, **values)]
        found += [Message("indented", text=example.told) for example in self.first]
        more = self.count - len(self.first)
        return [*found, Message("indented", text=Message("and-more", more=more))] if more else found


@dataclass(kw_only=True)
class Unread:
    """A key of turns that nobody reads."""

    count: int = 0
    """Turns."""
    line: int
    """Of the first; as `Example.line` and `row`."""
    row: int

    def add(self, other: Unread) -> None:
        """Count those of a later piece."""
        self.count += other.count


@dataclass(kw_only=True)
class FileReport:
    """One source file."""

    path: str
    formats: dict[str, int] = field(default_factory=dict)
    """Rows of each recognised format."""
    unused_keys: dict[str, int] = field(default_factory=dict)
    """Top-level keys that no format reads, and in how many rows they were met."""
    unread: dict[str, Unread] = field(default_factory=dict)
    """Keys of turns that neither their format nor the chat template reads."""
    special_rows: int = 0
    """Rows used whose texts spell a special token: the model reads it as one."""
    rows_without_eos: int = 0
    """Rows used whose last trained turn ends without a special token: where such an answer ends is not learned."""

    def lines(self) -> Iterator[Message]:
        """Its formats, and what is peculiar about it."""
        formats = [f"{name} {count:,}" for name, count in self.formats.items()] or Message("sft-no-format")
        unused = Message("sft-unused-keys", keys=list(self.unused_keys)) if self.unused_keys else ""
        yield Message("sft-file", path=self.path, formats=formats, unused=unused)
        if self.unread:
            keys: list[Message] = [self._unread(key, found) for key, found in list(self.unread.items())[:SHOWN]]
            keys += [Message("and-more", more=len(self.unread) - SHOWN)] if len(self.unread) > SHOWN else []
            yield Message("indented", text=Message("sft-unread", keys=keys))
        if self.special_rows:
            yield Message("indented", text=Message("sft-special", rows=self.special_rows))
        if self.rows_without_eos:
            yield Message("indented", text=Message("sft-endless", rows=self.rows_without_eos))

    def _unread(self, key: str, found: Unread) -> Message:
        first = place(self.path, found.line, found.row)
        return Message("sft-unread-key", key=repr(key[:40]), count=found.count, first=first)


@dataclass(kw_only=True)
class DataReport:
    """Of one dataset."""

    rows: int = 0
    """Rows read, used or not."""
    engine: Message | None = None
    """What tokenized it, and how that was checked."""
    lost: dict[str, Cause] = field(default_factory=dict)
    """By cause, of CAUSES."""
    truncated: Cause = field(default_factory=Cause)
    """Used, but cut to the sequence length."""
    noted: dict[str, Cause] = field(default_factory=dict)
    """Rows that are used although the chat template leaves something out."""
    files: list[FileReport] = field(default_factory=list)
    samples: int = 0
    """Rows used."""
    tokens: int = 0
    """Of the rows used, as far as they are used."""
    trained_tokens: int = 0
    """Those of them that are targets."""

    @property
    def lost_rows(self) -> int:
        """Rows not used, of all causes."""
        return sum(cause.count for cause in self.lost.values())

    def lose(self, cause: str, file: str, line: int, row: int, why: Message) -> None:
        """Count one row that is not used."""
        self.lost.setdefault(cause, Cause()).add(file, line, row, why)

    def note(self, cause: str, file: str, line: int, row: int, why: Message) -> None:
        """Count one row that is used all the same."""
        self.noted.setdefault(cause, Cause()).add(file, line, row, why)

    def lines(self) -> list[Message]:
        """For people: one line of totals, then causes with their first examples."""
        counts = {"samples": self.samples, "rows": self.rows, "tokens": self.tokens, "trained": self.trained_tokens}
        found = [Message("sft-used", **counts)]
        if self.engine:
            found.append(self.engine)
        for item in self.files:
            found += item.lines()
        for name in CAUSES:
            if name in self.lost:
                found += self.lost[name].lines("sft-lost", cause=TOLD[name], hint=HINTS.get(name, ""))
        for name, cause in self.noted.items():
            hint = HINTS[name] if name == EARLIER_REASONING else ""
            found += cause.lines("sft-noted", cause=TOLD[name], hint=hint)
        return found + (self.truncated.lines("sft-cut") if self.truncated.count else [])

    def check(self, max_lost: float) -> None:
        """See that not too much is lost.

        Args:
            max_lost: largest share of the rows that may go unused, 0 to 1.
        Raises:
            TooMuchLost: more than that, or nothing is left; the message is the whole report.
        """
        if not self.samples:
            raise TooMuchLost("sft-nothing-left", report=self.lines())
        if self.lost_rows > max_lost * self.rows:
            share = self.lost_rows / self.rows
            raise TooMuchLost("sft-too-much-lost", share=share, allowed=max_lost, report=self.lines())

    def write(self, path: Path) -> None:
        """As JSON, in English."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.as_dict())

    def as_dict(self, told: Callable[[Message], object] = str) -> dict[str, Any]:
        """As JSON holds it.

        Args:
            told: what stands for a message: its English text, or with `as_json` what `from_dict` reads.
        """
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=told))
        return found

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> DataReport:
        """The inverse of `as_dict(as_json)`."""

        def cause(fields: dict[str, Any]) -> Cause:
            examples = [Example(**{**example, "why": _message(example["why"])}) for example in fields["first"]]
            return Cause(count=fields["count"], first=examples)

        return cls(
            **{
                **content,
                "engine": _message(content["engine"]),
                "lost": {name: cause(fields) for name, fields in content["lost"].items()},
                "truncated": cause(content["truncated"]),
                "noted": {name: cause(fields) for name, fields in content.get("noted", {}).items()},
                "files": [_file_report(fields) for fields in content["files"]],
            }
        )


def _file_report(fields: dict[str, Any]) -> FileReport:
    unread = {key: Unread(**found) for key, found in fields.get("unread", {}).items()}
    return FileReport(**{**fields, "unread": unread})


def _message(content: object) -> Message:
    """
    Raises:
        ValueError: it is none, or of another version.
    """
    message = read_message(content)
    if message is None:
        raise ValueError(f"{content!r:.60} is not a message")
    return message
