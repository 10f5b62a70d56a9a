"""metrics.jsonl: one JSON object per iteration, the record that tests and plots read."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from megatron_patch.backend.hooks import Step
from megatron_patch.common.disk import naming
from megatron_patch.common.files import write_text
from megatron_patch.common.strict_json import parse_json


class MetricsFile:
    """Appends to `metrics.jsonl`; every line is on its way to the disk when `write` returns."""

    def __init__(self, path: Path, resumed_iteration: int) -> None:
        """Open the file, and cut what a killed run wrote after the checkpoint that this one continues.

        Args:
            resumed_iteration: steps already done; 0 starts an empty file.
        """
        kept = _lines_until(path, resumed_iteration)
        write_text(path, "".join(kept))
        self._path = path
        self._file = path.open("a", buffering=1)

    def write(self, record: dict[str, Any]) -> None:
        """Append one object; NaN and infinity, which JSON does not have, become null."""
        with naming(self._path):
            self._file.write(json.dumps(_finite(record), allow_nan=False) + "\n")

    def close(self) -> None:
        """Put the file on the disk."""
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def _finite(value: Any) -> Any:
    """NaN and infinity, at any depth, as None."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def step_record(step: Step, *, seq_length: int, world_size: int, peak: float | None = None) -> dict[str, Any]:
    """The metrics of one step: times in milliseconds, memory in bytes, rates per second and GPU (or process).

    Args:
        peak: dense bf16 TFLOP/s of one device, for the MFU; None where it is not known, as on a CPU.
    """
    tflops = step.flops / step.seconds / world_size / 1e12
    record = {
        "iteration": step.iteration,
        "loss": step.loss,
        "lr": step.lr,
        "grad_norm": step.grad_norm,
        "tokens": step.consumed_samples * seq_length,
        "batch": step.batch_samples,
        "step_ms": step.seconds * 1e3,
        "tokens_per_s_per_gpu": step.batch_samples * seq_length / step.seconds / world_size,
        "tflops_per_gpu": tflops,
        "mfu": None if peak is None else tflops / peak,
        "peak_memory_bytes": step.peak_memory_bytes,
        "allocated_bytes": step.allocated_bytes,
        "reserved_bytes": step.reserved_bytes,
    }
    if step.z_loss is not None:
        record["z_loss"] = step.z_loss
    if step.skipped:
        record["skipped"] = True
    return record if step.refusal is None else record | {"refusal": step.refusal}


def read_records(path: Path, iteration: int) -> list[dict[str, Any]]:
    """Every whole line up to `iteration`, of steps and of evaluations; none where the file cannot be read."""
    try:
        return [parse_json(line) for line in _lines_until(path, iteration)]
    except (OSError, ValueError):
        return []


def read_steps(path: Path, iteration: int, most: int) -> list[dict[str, Any]]:
    """The last training steps up to `iteration`, oldest first; none where the file cannot be read."""
    return [record for record in read_records(path, iteration) if "loss" in record][-most:]


def _lines_until(path: Path, iteration: int) -> list[str]:
    """The whole lines of an earlier run up to `iteration`; a torn last line is dropped with what follows it."""
    kept: list[str] = []
    if iteration == 0 or not path.exists():
        return kept
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        try:
            of_line = parse_json(line)["iteration"]
            known = line.endswith("\n") and of_line <= iteration
        except (ValueError, TypeError, KeyError, RecursionError):
            break
        if known:
            kept.append(line)
    return kept
