"""`python -m megatron_patch.report RUN [RUN...]`: one HTML file about runs, while they run too."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_patch.evaluation.results import put
from megatron_patch.report.collect import collect
from megatron_patch.report.page import render


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_patch.report",
        description="Makes one self-contained page about training runs, conversions' checks and evaluations.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="OUTPUT_BASEPATH of a run, or a folder that holds several"
    )
    parser.add_argument("--output", type=Path, help="default: report.html in the first RUN")
    args = parser.parse_args()
    if missing := [run for run in args.runs if not run.is_dir()]:
        print(*(f"RUN: {run} is not a folder" for run in missing), sep="\n", file=sys.stderr)
        return 2
    material = collect(args.runs)
    if not (material.runs or material.checks or material.evaluations):
        print(
            f"nothing to report in {', '.join(map(str, args.runs))}: no plan.json, metrics.jsonl, check.json or "
            "results.json",
            file=sys.stderr,
        )
        return 2
    file = put(args.output or args.runs[0] / "report.html", render(material))
    kinds = (("runs", material.runs), ("checks", material.checks), ("evaluations", material.evaluations))
    print(f"{file}: {', '.join(f'{len(found)} {name}' for name, found in kinds)}, {file.stat().st_size / 1e3:.0f} kB")
    for problem in material.problems:
        print(problem, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
