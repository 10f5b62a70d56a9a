"""One export beside a training run: `python -m megatron_patch.checkpoint.background ITERATION FOLDER [--adapters]`.

It steps back wherever the run wants the processor, and ends with the process that started it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError
from megatron_patch.common.parent import end_with_parent
from megatron_patch.common.terminal import guard

NICE = 10
WORKERS = 2


def main() -> int:
    """Returns 0, or 2 with the reasons on standard error."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("iteration", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--adapters", action="store_true")
    args = parser.parse_args()
    _step_back()
    try:
        if args.adapters:
            from megatron_patch.checkpoint.adapters import export_adapter

            export_adapter(args.iteration, args.folder, overwrite=True)
        else:
            from megatron_patch.checkpoint.export import export_hf

            export_hf(args.iteration, args.folder, overwrite=True, workers=WORKERS)
    except UserError as error:
        print("; ".join(error.localized().splitlines()), file=sys.stderr)
        return 2
    return 0


def _step_back() -> None:
    end_with_parent(signal.SIGTERM)
    os.nice(NICE)


if __name__ == "__main__":
    guard()
    sys.exit(main())
