"""What a run of train_gpu.py has measured, and the table of all."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WARM_UP = 3
"""First steps that no figure counts: compilation, autotuning, allocation."""


def measure(folder: Path, expected_bytes: int | None, expected_seconds: float | None = None) -> dict[str, Any]:
    """Figures from a run's metrics.jsonl and phases.json.

    Args:
        expected_bytes: of one rank, by the memory plan.
        expected_seconds: of one step, by the planner.
    """
    path = folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    steps = [record for record in records if "step_ms" in record]
    result: dict[str, Any] = {"steps": len(steps), "expected_gb": gigabytes(expected_bytes)}
    if steps:
        times = [record["step_ms"] for record in steps]
        settled = times[WARM_UP:] or times[-1:]
        middle = statistics.median(settled)
        share = times[-1] / middle  # rates are given for the last step; scale them to the median
        if expected_seconds:
            result |= {
                "predicted_ms": round(1e3 * expected_seconds, 1),
                "time_ratio": round(1e3 * expected_seconds / middle, 3),
            }
        result |= {
            "step_ms": round(middle, 1),
            "slowest_ms": round(max(settled), 1),
            "first_ms": round(times[0]),
            "tokens_per_s_per_gpu": round(steps[-1]["tokens_per_s_per_gpu"] * share),
            "tflops_per_gpu": round(steps[-1]["tflops_per_gpu"] * share, 1),
            "peak_gb": gigabytes(max(record["peak_memory_bytes"] for record in steps)),
            "losses": [record["loss"] for record in steps],
            "grad_norms": [record["grad_norm"] for record in steps],
        }
    phases = folder / "phases.json"
    if phases.exists():
        result["phases"] = json.loads(phases.read_text())
    return result


def gigabytes(count: int | None) -> float | None:
    """In units of 1e9 bytes."""
    return None if count is None else round(count / 1e9, 2)


def compare(result: dict[str, Any], reference: str, earlier: Sequence[dict[str, Any]]) -> None:
    """Add how far the plan was from the peak, and the losses from those of the reference, if that has run before."""
    if result.get("expected_gb") and result.get("peak_gb"):
        result["plan_ratio"] = round(result["expected_gb"] / result["peak_gb"], 3)
    for other in earlier:
        if other["name"] == reference and other.get("losses") and result.get("losses"):
            result["loss_gap"] = max(abs(a - b) for a, b in zip(result["losses"], other["losses"], strict=False))


def add_share(result: dict[str, Any], precision: str, ceilings: Mapping[str, float]) -> None:
    """Add the part of the sustained mix of matmuls and attention that a run reaches.

    Args:
        precision: bf16 or fp8; others have no mix.
        ceilings: TFLOP/s by name, measured in the same call; empty where they were not.
    """
    mix = ceilings.get(f"{precision} mix")
    if mix and result.get("tflops_per_gpu"):
        result["of_mix"] = round(result["tflops_per_gpu"] / mix, 3)


COLUMNS = (
    ("configuration", "name", "<22"),
    ("step ms", "step_ms", ">9"),
    ("predicted", "predicted_ms", ">9"),
    ("ratio", "time_ratio", ">6"),
    ("slowest", "slowest_ms", ">9"),
    ("tok/s/GPU", "tokens_per_s_per_gpu", ">9"),
    ("TFLOP/s", "tflops_per_gpu", ">8"),
    ("of mix", "of_mix", ">6"),
    ("peak GB", "peak_gb", ">8"),
    ("plan GB", "expected_gb", ">8"),
    ("ratio", "plan_ratio", ">6"),
    ("first loss", "first_loss", ">12"),
    ("last loss", "last_loss", ">12"),
    ("loss gap", "loss_gap", ">12"),
    ("run s", "seconds", ">7"),
    ("  ", "status", "<60"),
)


def table(results: Sequence[dict[str, Any]], *, header: bool) -> str:
    """One line for each configuration."""
    lines = [" ".join(format(title, width) for title, _, width in COLUMNS)] if header else []
    for result in results:
        losses = result.get("losses") or [None]
        shown = result | {"first_loss": losses[0], "last_loss": losses[-1]}
        cells = (shown.get(key) for _, key, _ in COLUMNS)
        lines.append(" ".join(_cell(value, width) for value, (_, _, width) in zip(cells, COLUMNS, strict=True)))
    return "\n".join(lines)


def _cell(value: Any, width: str) -> str:
    if value is None:
        return format("-", width)
    if isinstance(value, float):
        value = f"{value:.5f}" if width == ">12" else f"{value:.3f}" if width == ">6" else f"{value:.2f}"
    return format(str(value)[:60], width)
