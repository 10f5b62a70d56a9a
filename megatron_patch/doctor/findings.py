"""What the doctor says about one thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

SIGNS = {"ok": "ok  ", "note": "note", "wrong": "WRONG"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    found: str
    level: str = "ok"
    """`ok`, `note` (works, could be better, or does not apply) or `wrong` (training will fail or crawl)."""
    advice: str = ""
    """What to do; never empty where the level is `wrong`."""

    def __post_init__(self) -> None:
        if self.level not in SIGNS or (self.level == "wrong" and not self.advice):
            raise ValueError(f"{self}: level is one of {', '.join(SIGNS)}, and what is wrong needs advice")


def report(findings: Iterable[Finding]) -> str:
    """As a person reads it."""
    lines = []
    for finding in findings:
        lines.append(f"{SIGNS[finding.level]:<6}{finding.name:<20} {finding.found}")
        lines += [f"{'':<27}-> {finding.advice}"] if finding.advice else []
    return "\n".join(lines)


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """As a program reads it."""
    return [asdict(finding) for finding in findings]


def is_wrong(findings: Iterable[Finding]) -> bool:
    """Whether anything will keep training from working."""
    return any(finding.level == "wrong" for finding in findings)
