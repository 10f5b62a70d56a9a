"""Predictions against runs: published ones that nothing was fitted to, and our own."""

from __future__ import annotations

import csv

import pytest

from benchmarks import plan_accuracy
from megatron_patch.launch.step_time import ring_latency

GROUND = 0.12
"""An error that nobody may exceed."""


def published() -> list[dict[str, str]]:
    with plan_accuracy.RUNS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_no_published_run_is_predicted_beyond_the_bound() -> None:
    judged = [row for row in plan_accuracy.rows() if row.judged]
    assert len(judged) == sum(facts["judged"] == "yes" for facts in published())
    errors = plan_accuracy.of_layouts(judged)
    assert len(errors) == 37
    assert sum(map(abs, errors.values())) / len(errors) <= 0.05
    beyond = {row.facts["source"] for row in judged if abs(row.error or 0.0) > GROUND}
    assert not beyond


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


def test_buckets_of_one_weight_cost_latency() -> None:
    """MLPerf's 8B on 64 GPUs: near with its own buckets, and within the ground with Megatron's default."""
    source, size = next(iter(plan_accuracy.BUCKETS.items()))
    facts = next(facts for facts in published() if facts["source"] == source)
    own, default = plan_accuracy.predict(facts), plan_accuracy.predict({**facts, "source": ""})
    assert size == 64 and own is not None and default is not None
    assert own.time.data_parallel > 1.5 * default.time.data_parallel
    assert abs(own.error or 1) < abs(default.error or 1) < GROUND


def test_a_ring_starts_as_nccl_says() -> None:
    """63 steps, of which seven pass from one machine to the next."""
    layout = plan_accuracy.layout_of(
        plan_accuracy.model_of_size("8B"), {"gpus": 64, "tp": 1, "pp": 1, "vpp": 1, "cp": 1, "dp": 64, "seq": 8192}
    )
    assert ring_latency(layout) == pytest.approx(8.4e-6 + 56 * 3.4e-6 + 7 * 14e-6)


def test_a_pipeline_without_chunks_hides_its_gradients() -> None:
    """The first stage's last backward pass covers them; one in chunks sends a chunk at once."""
    numbers = {"tp": 4, "pp": 4, "cp": 1, "dp": 8, "mbs": 1, "gbs": 512, "gpus": 128, "seq": 8192}
    plain, chunks = (plan_accuracy.imagined("70B", numbers | {"vpp": vpp}).time for vpp in (1, 2))
    assert plain.data_parallel < chunks.data_parallel
    assert plain.bubble > 1.5 * chunks.bubble
