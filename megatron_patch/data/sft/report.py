"""What was not used, and why: counted by cause, the first few with file and line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_patch.common.files import write_json
from megatron_patch.data.rows import place
from megatron_patch.data.sft.fidelity import ARGUMENTS, CALL, REASONING, RESULT, SYSTEM, TEXT, TOOL, USER

MALFORMED, EMPTY, TOO_LONG, NOTHING_TRAINED = "malformed", "empty", "too long", "no trainable token"
DROPPED = {
    what: f"{what} left out by the chat template"
    for what in (TEXT, REASONING, CALL, ARGUMENTS, TOOL, SYSTEM, USER, RESULT)
}
"""What a row says and its rendering does not."""
CAUSES = (MALFORMED, EMPTY, *DROPPED.values(), TOO_LONG, NOTHING_TRAINED)
EARLIER_REASONING = "reasoning of earlier turns left out by the chat template, as is its way"
"""A note; `one-by-one` makes each turn the last of a sample."""
SHOWN = 5
"""Examples kept of each cause."""


class TooMuchLost(ValueError):
    """More rows than allowed are not used, or any is too long where that is an error; the message shows which."""


@dataclass(kw_only=True)
class Example:
    """One row that is not used."""

    file: str
    line: int
    """From 1; 0 where there are none (Parquet, idxmap)."""
    row: int
    """From 1; 0 where the line alone says which it is."""
    why: str

    def __str__(self) -> str:
        return f"{place(self.file, self.line, self.row)}: {self.why}"


@dataclass(kw_only=True)
class Cause:
    """How often something happened, and where first."""

    count: int = 0
    first: list[Example] = field(default_factory=list)

    def add(self, file: str, line: int, row: int, why: str) -> None:
        """Count one row."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(Example(file=file, line=line, row=row, why=why))


@dataclass(kw_only=True)
class FileReport:
    """One source file."""

    path: str
    formats: dict[str, int] = field(default_factory=dict)
    """Rows of each recognised format."""
    unused_keys: dict[str, int] = field(default_factory=dict)
    """Top-level keys that no format reads, and in how many rows they were met."""
    special_rows: int = 0
    """Rows used whose texts spell a special token: the model reads it as one."""


@dataclass(kw_only=True)
class Report:
    """Of one dataset."""

    rows: int = 0
    """Rows read, used or not."""
    engine: str = ""
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

    def lose(self, cause: str, file: str, line: int, row: int, why: str) -> None:
        """Count one row that is not used."""
        self.lost.setdefault(cause, Cause()).add(file, line, row, why)

    def note(self, cause: str, file: str, line: int, row: int, why: str) -> None:
        """Count one row that is used all the same."""
        self.noted.setdefault(cause, Cause()).add(file, line, row, why)

    def lines(self) -> list[str]:
        """For people: one line of totals, then causes with their first examples."""
        found = [
            f"{self.samples:,} of {self.rows:,} rows used: {self.tokens:,} tokens, {self.trained_tokens:,} trained on"
        ]
        if self.engine:
            found.append(self.engine)
        for item in self.files:
            formats = ", ".join(f"{name} {count:,}" for name, count in item.formats.items()) or "no known format"
            unused = ", ".join(item.unused_keys)
            found.append(f"{item.path}: {formats}{f'; keys not read: {unused}' if unused else ''}")
            if item.special_rows:
                found.append(f"    special tokens are spelled out in {item.special_rows:,} rows, and read as such")
        causes = [(f"lost, {cause}", self.lost[cause]) for cause in CAUSES if cause in self.lost]
        causes += [(f"used, {name}", cause) for name, cause in self.noted.items()]
        if self.truncated.count:
            causes.append(("cut to the sequence length", self.truncated))
        for name, cause in causes:
            found.append(f"{name}: {cause.count:,}{_what_helps(name)}")
            found += [f"    {example}" for example in cause.first]
            if cause.count > len(cause.first):
                found.append(f"    ... and {cause.count - len(cause.first):,} more")
        return found

    def check(self, max_lost: float) -> None:
        """See that not too much is lost.

        Args:
            max_lost: largest share of the rows that may go unused, 0 to 1.
        Raises:
            TooMuchLost: more than that, or nothing is left; the message is the whole report.
        """
        if not self.samples:
            raise TooMuchLost("\n".join(["nothing is left to train on", *self.lines()]))
        if self.lost_rows > max_lost * self.rows:
            share = self.lost_rows / self.rows
            raise TooMuchLost("\n".join([f"{share:.1%} of the rows are lost; allowed {max_lost:.1%}", *self.lines()]))

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Report:
        """The inverse of `dataclasses.asdict`."""

        def cause(fields: dict[str, Any]) -> Cause:
            return Cause(count=fields["count"], first=[Example(**example) for example in fields["first"]])

        return cls(
            **{
                **content,
                "lost": {name: cause(fields) for name, fields in content["lost"].items()},
                "truncated": cause(content["truncated"]),
                "noted": {name: cause(fields) for name, fields in content.get("noted", {}).items()},
                "files": [FileReport(**fields) for fields in content["files"]],
            }
        )


def _what_helps(cause: str) -> str:
    if cause.endswith(EARLIER_REASONING):
        return " (MP_SFT_TURNS=one-by-one trains it)"
    lost = cause.startswith("lost") and cause.endswith(tuple(DROPPED.values()))
    return " (MP_SFT_DROPPED=keep uses such rows as they are)" if lost else ""
