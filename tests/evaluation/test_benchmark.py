"""benchmarks/evaluate.py's table, without plain lm_eval among the ways."""

from __future__ import annotations

import pytest


def test_the_first_way_is_the_reference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend("its own first place is taken")
    from benchmarks.evaluate import Timing, report

    exact = Timing(seconds={"index": 1.0, "scoring": 4.0}, scores=[[0.0, -1.0], [-2.0, -3.0]])
    graphs = Timing(seconds={"index": 1.0, "scoring": 2.0}, scores=[[0.0, -1.0], [-4.0, -3.0]])
    summary = report({"exact": exact, "graphs": graphs}, 80.0)
    assert "said" not in summary["exact"]
    assert (summary["graphs"]["scoring_ratio"], summary["graphs"]["answers_changed"]) == (2.0, 1)
    assert "2.00 scoring, 1.67 total" in capsys.readouterr().out
