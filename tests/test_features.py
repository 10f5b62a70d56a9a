"""docs/features.md names what there is, and all commands: no word of it is of another time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_patch.cli import COMMANDS
from megatron_patch.launch.variables import read_variables

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`]+)`", TEXT)


def test_commands() -> None:
    """Each that is named, and each that there is."""
    lines = [span.removeprefix("megatron-patch ").split() for span in SPANS if span.startswith("megatron-patch ")]
    known = {tuple(name.split()) for name in COMMANDS}
    named = {
        next((tuple(words[:size]) for size in (2, 1) if tuple(words[:size]) in known), tuple(words)) for words in lines
    }
    assert named - known == {("--help",)}
    assert known <= named


@pytest.mark.parametrize("span", [span for span in SPANS if span.startswith("MP_") and not span.startswith("MP_TEST_")])
def test_variables(span: str) -> None:
    """With values that are taken."""
    given = dict(word.split("=", 1) for word in span.split())
    assert read_variables(given)[1] == []


def test_paths() -> None:
    """Files of the repository, linked or typed."""
    named = {word for span in SPANS for word in span.split() if re.fullmatch(r"[\w./]+/[\w./]+\.(sh|py)", word)}
    linked = {f"docs/{name}" for name in re.findall(r"\]\(([^)#]+)\)", TEXT)}
    assert len(named) >= 5 and len(linked) >= 4
    assert [name for name in sorted(named | linked) if not (ROOT / name).is_file()] == []
