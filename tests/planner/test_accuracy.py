"""Predictions against runs: published ones that nothing was fitted to, and our own."""

from __future__ import annotations

import csv

import pytest

from benchmarks import plan_accuracy

GROUND = 0.12
"""An error that nobody may exceed."""
KNOWN_MISS = "MLPerf 5.1 Cisco hpf_n8"
"""One micro batch a step: see docs/scaling.md, 'Where it misses'."""


def published() -> list[dict[str, str]]:
    with plan_accuracy.RUNS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_published_runs() -> None:
    judged = [row for row in plan_accuracy.rows() if row.judged]
    assert len(judged) == sum(facts["judged"] == "yes" for facts in published())
    errors = plan_accuracy.of_layouts(judged)
    assert len(errors) == 37
    assert sum(map(abs, errors.values())) / len(errors) <= 0.05
    beyond = {row.facts["source"] for row in judged if abs(row.error or 0.0) > GROUND}
    assert beyond == {KNOWN_MISS}


def test_our_own_runs() -> None:
    for facts, predicted in plan_accuracy.own_runs():
        assert predicted == pytest.approx(float(facts["step_s"]), rel=0.05), facts


def test_the_order_of_the_70b_finetuning_layouts() -> None:
    """Megatron-Bridge's guide: TP4 PP4 is faster than TP4 PP8, and that than TP8 PP4."""
    rows = {
        row.facts["source"].split("tuning ")[-1]: row
        for row in plan_accuracy.rows()
        if "perf-memory" in row.facts["source"]
    }
    times = [rows[name].time.total for name in ("baseline", "more PP", "more TP")]
    assert times == sorted(times)


def test_weak_scaling_falls_a_little() -> None:
    for size in plan_accuracy.WEAK:
        speeds = [speed for gpus in (512, 2048, 8192) if (speed := plan_accuracy.weak_scaling(size, gpus))]
        assert speeds == sorted(speeds, reverse=True)
        assert speeds[-1] > 0.9 * speeds[0]


def test_the_page_is_what_the_program_says() -> None:
    assert plan_accuracy.PAGE.read_text(encoding="utf-8") == "\n".join(plan_accuracy.page()) + "\n"


def test_the_copy_of_the_published_runs_is_whole() -> None:
    assert len(published()) == 110
