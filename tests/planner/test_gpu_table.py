"""The table of GPU runs: what part of the sustained mix each reaches."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_table import add_share, table


def test_of_the_sustained_mix() -> None:
    mixes = {"bf16 mix": 632.0, "fp8 mix": 968.0}
    runs: list[dict[str, Any]] = [{"name": pr, "tflops_per_gpu": 580.0} for pr in ("bf16", "fp8", "fp16")]
    for run in runs:
        add_share(run, run["name"], mixes)
    assert [run.get("of_mix") for run in runs] == [0.918, 0.599, None]
    lines = table(runs, header=True).splitlines()
    assert "of mix" in lines[0] and "0.918" in lines[1]


def test_nothing_without_ceilings() -> None:
    failed: dict[str, Any] = {"name": "a", "status": "rank 0 failed"}
    add_share(failed, "bf16", {"bf16 mix": 632.0})
    add_share(run := {"name": "b", "tflops_per_gpu": 580.0}, "bf16", {})
    assert "of_mix" not in failed and "of_mix" not in run
