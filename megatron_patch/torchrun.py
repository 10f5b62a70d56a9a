"""torchrun as it is, with a short ending: `python -m megatron_patch.torchrun` takes torchrun's own arguments.

When a rank fails, torch.distributed.run 2.11 prints its own traceback and the rank's once more, up to 150 lines below
the sentence that says what to change. Here the rank's own words stay last. And it leaves a folder `torchelastic_*` in
/tmp after each run, where ranks note how they failed: here it goes with the run.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from tempfile import TemporaryDirectory
from typing import Any


def main(arguments: list[str]) -> int:
    """Start the ranks of this machine and wait for them.

    Returns:
        0; 1 where a rank failed; 128 + N after signal N, as shells count it.
    """
    logging.disable(logging.ERROR)  # torchrun's own account of what a rank has said already
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # before torchrun handles it
        return 128 + signal.SIGINT


def _run(arguments: list[str]) -> int:
    gc.disable()  # while it imports: nothing of that is garbage
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    gc.enable()
    parsed = parse_args(arguments)
    try:
        with TemporaryDirectory(prefix="torchelastic_", ignore_cleanup_errors=True) as folder:
            parsed.log_dir = parsed.log_dir or folder
            run(parsed)
    except ChildFailedError as error:
        print(describe(error.failures), file=sys.stderr)
        return 1
    except SignalException as stop:
        return 128 + stop.sigval
    return 0


def describe(failures: dict[int, Any]) -> str:
    """Which rank failed first, and what became of it.

    Args:
        failures: torchrun's ProcessFailure of each failed rank.
    """
    first, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    if failure.exitcode >= 0:
        return f"rank {first} failed first, with status {failure.exitcode}: what it said stands above"
    name = signal.Signals(-failure.exitcode).name
    hint = ": the kernel does that when memory runs out (`dmesg` shows it)" if name == "SIGKILL" else ""
    return f"rank {first} was killed by {name}{hint}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
