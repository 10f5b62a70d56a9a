"""`python -m megatron_patch.report RUN [RUN...]`: one HTML file about runs, while they run too."""

from __future__ import annotations

import sys
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.files import write_text
from megatron_patch.common.terminal import guard
from megatron_patch.common.values import printable
from megatron_patch.report.collect import collect
from megatron_patch.report.page import render


def main() -> int:
    """Command line; returns the exit status."""
    parser = ArgumentParser(
        prog="python -m megatron_patch.report",
        description="Makes one self-contained page about training runs, conversions' checks and evaluations.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="OUTPUT_BASEPATH of a run, or a folder that holds several"
    )
    parser.add_argument("--output", type=Path, help="default: report.html in the first RUN")
    args = parser.parse_args()
    if missing := [run for run in args.runs if not run.is_dir()]:
        print(*(printable(f"RUN: {run} is not a folder") for run in missing), sep="\n", file=sys.stderr)
        return 2
    material = collect(args.runs)
    if not (material.runs or material.checks or material.evaluations):
        where = printable(", ".join(map(str, args.runs)))
        print(f"nothing to report in {where}: no plan.json, metrics.jsonl, check.json or results.json", file=sys.stderr)
        print(*map(printable, material.problems), sep="\n", end="", file=sys.stderr)
        return 2
    output = args.output or args.runs[0] / "report.html"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, render(material), errors="replace")
    except OSError as error:
        print(printable(f"--output: {output} cannot be written: {error}"), file=sys.stderr)
        return 1
    counts = (("run", material.runs), ("check", material.checks), ("evaluation", material.evaluations))
    found = ", ".join(f"{len(several)} {name}{'' if len(several) == 1 else 's'}" for name, several in counts)
    print(printable(f"{output}: {found}, {output.stat().st_size / 1e3:.0f} kB"))
    for problem in [*material.problems, *(f"{run.name}: {line}" for run in material.runs for line in run.problems)]:
        print(printable(problem), file=sys.stderr)
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main())
