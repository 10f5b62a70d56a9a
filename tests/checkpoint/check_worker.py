"""Many checks in one process, since the imports take longer than a check: `check_worker.py JOBS.json OUT.json`.

A process of its own, because the CPU backend changes torch for the whole process; or a rank of several, each of which
does its part of every check.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from megatron_patch.checkpoint.check.run import CheckRequest, check, run
from megatron_patch.checkpoint.cli import main


def inspect(hf: str, megatron: str, precision: str, *, tp: int = 1, written: bool = False) -> dict:
    """Check one pair of folders, and say all that the report says.

    Args:
        written: leave the report's files beside the checkpoint; the picture takes longer than the check.
    """
    request = CheckRequest(
        hf=hf,
        megatron=f"{megatron}/release",
        megatron_config=json.loads(Path(megatron, "config.json").read_text()),
        megatron_origin=f"{megatron}/config.json",
        size="auto",
        precision=precision,
        tp=tp,
    )
    report = check(request) if tp == 1 else run(request)
    first = report.first_failure
    return {
        "passed": report.passed,
        "verdict": "\n".join(map(str, report.verdict())),
        "table": report.table(),
        "configuration": list(map(str, report.configuration)),
        "first": asdict(first) if first else None,
        "worst_fp32": max(row.relative_l2 for row in report.rows if row.precision == "fp32"),
        "rows": len(report.rows),
        "precisions": sorted({row.precision for row in report.rows}),
        "files": [str(file) for file in report.write(Path(megatron))] if written else [],
    }


def command(argv: list[str]) -> dict:
    """The converter's command."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = main(argv)
    return {"status": status, "said": said.getvalue()}


def attempt(job: dict) -> dict:
    """What is found, or why nothing was: one broken model fails its own tests and no others."""
    try:
        return command(**job) if "argv" in job else inspect(**job)
    except Exception:
        return {"broken": traceback.format_exc()}


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    found = json.dumps({name: attempt(job) for name, job in jobs.items()})
    if os.environ.get("RANK", "0") == "0":
        Path(sys.argv[2]).write_text(found)
