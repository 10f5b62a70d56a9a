"""`python -m megatron_patch.report RUN [RUN...]`: one HTML file about runs, while they run too."""

from __future__ import annotations

import sys
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.files import write_text
from megatron_patch.common.messages import Message, localized, named
from megatron_patch.common.terminal import guard
from megatron_patch.common.values import printable
from megatron_patch.report.collect import Material, collect
from megatron_patch.report.page import render


def main() -> int:
    """Command line; returns the exit status."""
    parser = ArgumentParser(
        prog="python -m megatron_patch.report",
        description=localized("report-about"),
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=localized("report-help-runs"))
    parser.add_argument("--output", type=Path, help=localized("report-help-output"))
    args = parser.parse_args()
    if missing := [run for run in args.runs if not run.is_dir()]:
        print(*(_error("report-not-folder", path=run) for run in missing), sep="\n", file=sys.stderr)
        return 2
    material = collect(args.runs)
    if not (material.runs or material.checks or material.evaluations):
        print(_error("report-nothing", where=args.runs), file=sys.stderr)
        print(*_problems(material), sep="", end="", file=sys.stderr)
        return 2
    output = args.output or args.runs[0] / "report.html"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, render(material), errors="replace")
    except OSError as error:
        print(
            _error("report-not-written", path=output, error=named(str(error.strerror)) if error.strerror else error),
            file=sys.stderr,
        )
        return 1
    found = {"runs": len(material.runs), "checks": len(material.checks), "evaluations": len(material.evaluations)}
    print(printable(localized("report-written", path=output, **found, kilobytes=output.stat().st_size / 1e3)))
    print(*_problems(material), sep="", end="", file=sys.stderr)
    return 0


def _error(code: str, **values: object) -> str:
    return printable(localized("error", text=Message(code, **values)))


def _problems(material: Material) -> list[str]:
    """A line for each file that was not used."""
    of_runs = [Message("report-problem", name=run.name, problem=one) for run in material.runs for one in run.problems]
    return [f"{printable(one.localized())}\n" for one in [*material.problems, *of_runs]]


if __name__ == "__main__":
    guard()
    sys.exit(main())
