"""Build one tokenized cache: `python -m megatron_patch.data.sft.build_cache TARGET TOKENIZER [--workers N] FILE...`.

What `cache.open_cache` runs when its own process must not fork. The caller holds the lock.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.cache import DATA_ERROR, TEMPLATE_ERROR, Advance, Source, build
from megatron_patch.data.sft.template import TemplateError


def progress_bar(console: Console, source: Source) -> tuple[Progress, Advance]:
    """A bar over the bytes of the files, with the rows so far; silent where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    # Refreshed by hand: a thread that draws would be there when workers are forked.
    bar = Progress(*columns, console=console, disable=not console.is_terminal, auto_refresh=False)
    task = bar.add_task("tokenizing", total=sum(path.stat().st_size for path in source.files))
    seen = 0

    def advance(size: int, count: int) -> None:
        nonlocal seen
        seen += count
        bar.update(task, advance=size, description=f"tokenizing, {seen:,} rows")
        bar.refresh()

    return bar, advance


def main(argv: list[str]) -> int:
    """The command; on bad data the message goes to stdout, for the caller to raise."""
    parser = argparse.ArgumentParser(prog="build_cache", description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--workers", type=int, default=0, help="processes (0: every core)")
    args = parser.parse_args(argv)
    try:
        source = Source.of(args.files, args.tokenizer)
        bar, advance = progress_bar(Console(stderr=True), source)
        with bar:
            build(source, args.target, workers=args.workers or len(os.sched_getaffinity(0)), advance=advance)
    except TemplateError as error:
        print(error)
        return TEMPLATE_ERROR
    except DataError as error:
        print(error)
        return DATA_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
