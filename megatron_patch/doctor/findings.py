"""What the doctor says about one thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from megatron_patch.common.messages import Message, localized, named
from megatron_patch.common.terminal import padded

SIGNS = {"ok": "doctor-ok", "note": "doctor-note", "wrong": "doctor-wrong"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    found: Message | str
    """A version or a number is the same in all languages."""
    level: str = "ok"
    """`ok`, `note` (works, could be better, or does not apply) or `wrong` (training will fail or crawl)."""
    advice: Message | None = None
    """What to do; never None where the level is `wrong`."""

    def __post_init__(self) -> None:
        if self.level not in SIGNS or (self.level == "wrong" and not self.advice):
            raise ValueError(f"{self}: level is one of {', '.join(SIGNS)}, and what is wrong needs advice")


def report(findings: Iterable[Finding]) -> str:
    """As a person reads it."""
    lines = []
    for finding in findings:
        found = finding.found if isinstance(finding.found, str) else finding.found.localized()
        sign, name = padded(localized(SIGNS[finding.level]), 6), padded(named(finding.name).localized(), 20)
        lines.append(f"{sign}{name} {found}")
        lines += [f"{'':<27}-> {finding.advice.localized()}"] if finding.advice else []
    return "\n".join(lines)


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """As a program reads it, in English."""
    return [vars(one) | {"found": str(one.found), "advice": str(one.advice or "")} for one in findings]


def is_wrong(findings: Iterable[Finding]) -> bool:
    """Whether anything will keep training from working."""
    return any(finding.level == "wrong" for finding in findings)
