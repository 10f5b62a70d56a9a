"""Build one tokenized cache: `python -m megatron_patch.data.sft.build_cache TARGET TOKENIZER [--workers N] FILE...`.

What `cache.open_cache` runs when its own process must not fork. The caller holds the lock.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import as_json, localized
from megatron_patch.common.progress import WorkBar
from megatron_patch.common.terminal import guard
from megatron_patch.data.sft.cache import DATA_ERROR, TEMPLATE_ERROR, CacheSource, build
from megatron_patch.data.sft.rendering.template import TemplateError
from megatron_patch.data.sft.tokenize import LEAVING_OUT, TURNS, Rules
from megatron_patch.data.workers import more_than_taken, workers_for


def main(argv: list[str]) -> int:
    """The command; why it fails goes to stdout, for the caller to raise."""
    parser = ArgumentParser(prog="build_cache", description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--workers", type=int, default=0, help=localized("help-workers"))
    parser.add_argument("--dropped", choices=LEAVING_OUT, default="lose")
    parser.add_argument("--turns", choices=TURNS, default="together")
    args = parser.parse_args(argv)
    try:
        source = CacheSource.of(args.files, args.tokenizer, Rules(dropped=args.dropped, turns=args.turns))
        with WorkBar("bar-tokenizing", sum(path.stat().st_size for path in source.files)) as bar:
            workers = workers_for(args.workers)
            if said := more_than_taken(args.workers):
                print(localized("processes-taken", taken=workers, more=said), file=sys.stderr)
            build(source, args.target, workers=workers, advance=bar.advance)
    except UserError as error:
        print(json.dumps([as_json(message) for message in error.messages]))
        return TEMPLATE_ERROR if isinstance(error, TemplateError) else DATA_ERROR
    except Exception as error:  # the caller shows its cause, this process's stderr the rest
        print(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who started this says that it was interrupted
    guard()
    sys.exit(main(sys.argv[1:]))
