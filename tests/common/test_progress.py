"""On a terminal a bar, in a file a line now and then."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from megatron_patch.common import progress
from megatron_patch.common.progress import WorkBar


def test_a_file_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 16.0, 20.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    out = io.StringIO()
    with WorkBar(Console(file=out), "tokenizing", total=100_000_000) as bar:
        for _ in range(4):
            bar.advance(20_000_000, 1000)
    assert out.getvalue() == "tokenizing: 2,000 rows, 40%, 2.5 MB/s\ntokenizing: 4,000 rows, 80%, 2.0 MB/s\n"


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    with WorkBar(Console(file=out, force_terminal=True, width=120), "tokenizing", total=10) as bar:
        bar.advance(10, 7)
    assert "tokenizing, 7 rows" in out.getvalue() and "━" in out.getvalue()
