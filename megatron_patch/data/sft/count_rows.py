"""How many rows an epoch of conversations has: the process that the driver starts where a length is in epochs.

Reads what is asked as JSON from stdin, and prints `{"rows": N, "wrong": [MESSAGE, ...], "unwritable": [...]}`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, as_json
from megatron_patch.common.terminal import INTERRUPTED, guard
from megatron_patch.data.sft.cache import defect
from megatron_patch.data.sft.held_out import hold_out
from megatron_patch.data.sft.layout import RowLayout
from megatron_patch.data.sft.prepare import SFTData, open_components


def count(asked: dict[str, Any], cache: Path) -> int:
    """Rows in which every sample for training lies once: those of `trainer/data/sft.py`.

    Args:
        asked: `words`, of DATASET_PATH; `data`, fields of SFTData; `split`, `packing`, `context_parallel_size`.
        cache: of tokenized data.
    Raises:
        UserError: the data cannot be used.
    """
    fields = asked["data"] | {"tokenizer": Path(asked["data"]["tokenizer"]), "cache": cache}
    components = open_components(asked["words"], SFTData(**fields), say=_say)
    if asked["split"]:
        components = [hold_out(component, asked["split"])[0] for component in components]
    layout = RowLayout(
        seq_length=asked["data"]["seq_length"],
        packing=asked["packing"],
        pad_id=0,  # decides no count
        context_parallel_size=asked["context_parallel_size"],
    )
    return sum(len(layout.rows(component.samples.lengths)) for component in components)


def _say(message: Message) -> None:
    print(message.localized(), file=sys.stderr, flush=True)


@contextlib.contextmanager
def thrown_away(cache: Path) -> Iterator[Path]:
    """A folder for a dry run, which leaves nothing behind; what is whole in the run's cache is found in it."""
    with tempfile.TemporaryDirectory() as folder:
        for found in cache.glob("sft-*/"):
            if defect(found) is None:
                Path(folder, found.name).symlink_to(found)
        yield Path(folder)


def main() -> int:
    """The process."""
    asked = json.load(sys.stdin)
    cache = Path(asked["data"]["cache"])
    answer: dict[str, Any] = {"rows": 0, "wrong": [], "unwritable": []}
    _say(Message("epochs-counting" if asked["keep"] else "epochs-counting-dry"))
    try:
        with contextlib.nullcontext(cache) if asked["keep"] else thrown_away(cache) as folder:
            answer["rows"] = count(asked, folder)
    except UserError as error:
        answer["wrong"] = [as_json(message) for message in error.messages]
    except OSError as error:
        if asked["keep"] and Path(error.filename or cache).is_relative_to(cache.parent):
            answer["unwritable"] = [str(error)]
        else:
            answer["wrong"] = [as_json(Message("uncoded", text=str(error)))]
    except KeyboardInterrupt:  # the driver says so; here the folder of a dry run is gone now
        return INTERRUPTED
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main())
