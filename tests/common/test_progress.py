"""On a terminal a live line that fits, elsewhere an ordinary line now and then."""

from __future__ import annotations

import io
import os
import pty

import pytest

from megatron_patch.common import progress
from megatron_patch.common.progress import ALWAYS, LinePart, WorkBar, fit


def test_a_file_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 16.0, 20.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    out = io.StringIO()
    with WorkBar("bar-tokenizing", total=100_000_000, stream=out) as bar:
        for _ in range(4):
            bar.advance(20_000_000, 1000)
    assert out.getvalue().splitlines() == [
        "tokenizing: 40%, 2,000 rows, 2.5 MB/s, 0:00:24 left",
        "tokenizing: 80%, 4,000 rows, 2.0 MB/s, 0:00:10 left",
    ]


def read_all(terminal: int) -> str:
    """What was written to the other end, which is closed: one read may give only a part. Closes this end."""
    written = b""
    try:
        while part := os.read(terminal, 65536):
            written += part
    except OSError:  # EIO: that was all
        pass
    os.close(terminal)
    return written.decode()


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as wide as that terminal, whatever standard input and output are."""
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with (
        os.fdopen(theirs, "w") as terminal,
        WorkBar("bar-checking", total=10, unit="bar-parts", stream=terminal) as bar,
    ):
        bar.advance(10, 7)
    shown = read_all(ours)
    assert "checking 10/10 parts" in shown and "7 rows | 0:00:00 left" in shown and "━" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is back"


def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, WorkBar("bar-checking", total=10, stream=terminal) as bar:
        assert bar._live is None
    os.close(ours)


HEAD = "12345/100000"
PARTS = [
    LinePart("loss 2.5000", 80),
    LinePart("lr 1.00e-03", 40),
    LinePart("norm 0.50", 20),
    LinePart("12,345 tokens/s/process", 60),
    LinePart("0.0738 TFLOP/s/process", 10),
    LinePart("1 day, 10:00:00 left", ALWAYS),
]


@pytest.mark.parametrize("columns", range(20, 201, 5))
def test_what_is_worth_least_goes_first(columns: int) -> None:
    """The rest fills the line and no more; the total and the time left are always there."""
    text, bar = fit(HEAD, PARTS, columns)
    there = [part.text in text for part in sorted(PARTS, key=lambda part: part.worth)]
    assert there == sorted(there), "nothing is left out while something worth less stays"
    assert text.endswith("10:00:00 left")
    if columns >= 40:
        assert len(HEAD) + 1 + bar + (bar > 0) + len(text) <= columns
    assert bool(bar) or "lr" not in text
