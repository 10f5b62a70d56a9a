"""`python -m megatron_patch.watch RUN`: follow a run live in a terminal; elsewhere print where it is, once."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.messages import localized
from megatron_patch.common.progress import Plain
from megatron_patch.common.terminal import guard, raw
from megatron_patch.watch.follow import Follower
from megatron_patch.watch.view import frame


def main() -> int:
    """Command line; returns the exit status."""
    parser = ArgumentParser(
        prog="python -m megatron_patch.watch",
        description=localized("watch-about"),
    )
    parser.add_argument("run", type=Path, metavar="RUN", help=localized("watch-help-run"))
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help=localized("watch-help-every"))
    parser.add_argument("--once", action="store_true", help=localized("watch-help-once"))
    args = parser.parse_args()
    guard()
    console = Console(file=raw(sys.stdout), highlight=False)
    live = console.is_terminal and not args.once
    follower = Follower(args.run.parent if args.run.is_file() else args.run)
    if not follower.exists() and not (live and follower.folder.is_dir()):
        print(localized("watch-not-run", path=args.run), file=sys.stderr)
        return 2
    follower.look()
    if not live:
        console.print(Plain(frame(follower.run, follower.ended, now=time.time(), width=console.width)))
        return 0
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as screen:
        try:
            while True:
                shown = frame(follower.run, follower.ended, now=time.time(), width=console.width)
                screen.update(Plain(shown), refresh=True)
                if follower.run.finished:
                    return 0
                time.sleep(args.every)
                follower.look()
        except KeyboardInterrupt:
            return 0
