"""`make faults`: run the campaign's parts, keep each result, and make docs/reliability.md of them.

    python -m faults [PART ...] [--most N] [--again failed|all] [--page] [--list] [--results DIR]

with PYTHONPATH=tests. A part that was stopped goes on where it was. Exit status 1 where a case has a problem.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch

from megatron_patch.common.command_line import ArgumentParser

from .campaign import RESULTS, read_results, run_part, total
from .page import page
from .parts import PARTS


def main() -> int:
    """The command line."""
    parser = ArgumentParser(prog="faults", description=__doc__.splitlines()[0])
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(names)}; all if none is given")
    parser.add_argument("--most", type=int, metavar="N", help="so many cases of each part, spread over it")
    parser.add_argument("--again", choices=("failed", "all"), help="run cases that have a result once more")
    parser.add_argument("--page", action="store_true", help="run nothing, make the page")
    parser.add_argument("--list", action="store_true", help="what has been run, of how many")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="else docs/reliability")
    args = parser.parse_args()
    whole = args.results.with_suffix(".md")
    if unknown := set(args.parts) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: not a part; valid: {', '.join(names)}")
    wanted = [part for part in PARTS if part.name in (args.parts or names)]
    say = partial(print, flush=True)
    for part in wanted:
        if args.list:
            say(f"{part.name}: {total(read_results(part.name, args.results), 'tried')} tried, goal {part.goal}")
        elif not args.page:
            for _ in run_part(part, most=args.most, again=args.again or "", folder=args.results, say=say):
                whole.write_text(page(args.results), encoding="utf-8")
    if not args.list:
        whole.write_text(page(args.results), encoding="utf-8")
    return int(any(result.outcome.problem for part in wanted for result in read_results(part.name, args.results)))


if __name__ == "__main__":
    sys.exit(main())
