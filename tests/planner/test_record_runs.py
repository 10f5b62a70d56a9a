"""Results of GPU calls become a section of docs/performance.md, a record, and rows that the planner's page predicts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plan_accuracy, record_runs
from benchmarks.gpu_cases import SUITES
from benchmarks.gpu_targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
DP4 = {
    "kind": "H200",
    "model": "8B",
    "layers": "",
    "precision": "bf16",
    "tp": 1,
    "pp": 1,
    "vpp": 1,
    "cp": 1,
    "dp": 4,
    "mbs": 1,
    "gbs": 64,
    "seq": 8192,
    "tp_overlap": "",
    "adam_bytes": 6,
    "predicts": True,
}


def run(name: str, step_ms: float, predicted_ms: float | None = None, **row: Any) -> dict[str, Any]:
    """One result of train_gpu.py."""
    figures = {"tokens_per_s_per_gpu": 11300, "tflops_per_gpu": 582.0, "peak_gb": 96.6, "expected_gb": 96.7}
    predicted = {"predicted_ms": predicted_ms, "time_ratio": round(predicted_ms / step_ms, 3)} if predicted_ms else {}
    slowest = {"slowest_ms": step_ms + 500.0}
    return {"name": name, "status": "ok", "row": DP4 | row, "step_ms": step_ms, **slowest, **figures, **predicted}


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """What a call leaves in $OUT."""
    folder = tmp_path / "call"
    folder.mkdir()
    saves = {"save_checkpoint_and_time": [[9.0, 0.41], [20.0, 0.25]], "wait_until_copied": [[9.5, 0.7], [21.0, 0.0]]}
    runs = [
        run("8B-dp4-bf16", 11500.0, 11780.0),
        {"name": "8B-dp4-fp8", "status": "rank 0 failed"},
        run("8B-tp2-pp2-defer", 6500.0, 6700.0, tp=2, pp=2, dp=1, tp_overlap="true", predicts=False),
        run("save-L16-dp4-thrice", 815.0, 830.0, layers=16, gbs=8) | {"phases": {"saves": saves}},
        run("rank4-dp4", 1700.0, 1750.0, layers=8),
        run("rank4-tp4", 1650.0, 2000.0, layers=8, tp=4, dp=1, tp_overlap="true"),
        run("8B-dp4-b32-bf16", 5900.0, 5930.0, gbs=32),
    ]
    (folder / "dp.json").write_text(json.dumps(runs))
    (folder / "ceilings.json").write_text(json.dumps({"attention": 468.0, "bf16 mix": 632.0, "fp8 mix": 979.0}))
    bridge = {
        "how": "retuned",
        "precision": "bf16",
        "tokens_per_second_per_gpu": 11000,
        "peak_gb": 99.0,
        "settings": {},
    }
    (folder / "bridge-bf16.json").write_text(json.dumps(bridge))
    return folder


def test_the_section_has_the_calls_figures(call: Path) -> None:
    section = record_runs.page(*record_runs.read_calls([call]), "2026-11-28")
    assert "| DP4: bf16 | cuDNN | 11.500 | **11,300** | 582 | 0.92 | 96.60; 96.70 |" in section
    assert (
        "slowest step 0.50 s over the median; between the steps 0.41, 0.25 s; the next optimizer's wait 0.70 s."
        in section
    )
    assert "| **11,300** (96.6 GB) | 11,000 (99.0 GB) | 1.03 |" in section
    assert "0 of 1 pairs that were predicted more than 2 % apart came out in that order; not dp4 before tp4" in section
    assert "Times within 21.2% (tp4)" in section
    assert "CP2" not in section  # nobody ran it


def test_records_are_written_once(call: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in (("PAGE", record_runs.PAGE), ("OWN", record_runs.OWN)):
        copy = tmp_path / source.name
        copy.write_text(source.read_text())
        monkeypatch.setattr(record_runs, name, copy)
    monkeypatch.setattr(record_runs, "RECORDS", tmp_path)
    before = record_runs.OWN.read_text()
    found = record_runs.read_calls([call])
    list(record_runs.write(*found, "2026-11-28"))
    once = [file.read_text() for file in (record_runs.PAGE, record_runs.OWN, tmp_path / "2026-11-28.json")]
    list(record_runs.write(*found, "2026-11-28"))
    assert once == [file.read_text() for file in (record_runs.PAGE, record_runs.OWN, tmp_path / "2026-11-28.json")]
    added = once[1].removeprefix(before).splitlines()
    assert added[0] == "2026-11-28,H200,8B,,bf16,1,1,1,1,4,1,64,8192,,6,,,11.5,11.78"
    assert len(added) == 5  # not the failed one, nor the one with a flag of Megatron's
    monkeypatch.setattr(plan_accuracy, "OWN", record_runs.OWN)
    facts, predicted = list(plan_accuracy.own_runs())[-5]
    assert facts["step_s"] == "11.5" and predicted == pytest.approx(11.78, rel=0.02)


def test_every_name_in_the_tables_is_a_row() -> None:
    rows = {case.name for suite in (SUITES | TARGETS).values() for case in suite}
    names = {name for rows in record_runs.TABLES.values() for _, cells in rows for name in cells}
    assert names <= rows


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/record_runs.py", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "no results there" in ran.stderr
