"""Put verified questions where the unmodified lm_eval looks, below LM-Evaluation-Harness.

python -m megatron_patch.evaluation.install_data [PLACE ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import print_error
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.terminal import guard
from megatron_patch.evaluation.benchmarks import BENCHMARKS
from megatron_patch.evaluation.cards import with_fingerprint
from megatron_patch.evaluation.data import HARNESS, LocalData, QuestionsError, find_all, verify


def put_in_place(data: LocalData, harness: Path = HARNESS) -> list[Message]:
    """Link the splits, and note their checksum for `datasets`; says what it did. What is not a link stays.

    Raises:
        QuestionsError: a folder that is there already holds other questions, with which these do not fit.
    """
    place = harness / data.benchmark.hub_path
    place.mkdir(parents=True, exist_ok=True)
    said: list[Message] = []
    for split in data.benchmark.splits:
        link, target = place / split, data.folder / split
        if link.exists() and not link.is_symlink():
            here = link.resolve() == target
            said.append(
                Message("install-there", link=link) if here else Message("install-kept", link=link, target=target)
            )
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        said.append(Message("install-linked", link=link, target=target))
    fingerprint = verify(data.benchmark, place).fingerprint
    (place / ".huggingface.yaml").write_text(with_fingerprint(data.benchmark, fingerprint), encoding="utf-8")
    return said


def main() -> int:
    """Command line; returns the exit status."""
    parser = ArgumentParser(
        prog="prepare_data.sh",
        description=localized("install-about"),
    )
    parser.add_argument("places", nargs="*", type=Path, metavar="PLACE", help=localized("install-help-places"))
    try:
        for data in find_all(list(BENCHMARKS.values()), parser.parse_args().places).values():
            print(*(message.localized() for message in (data.describe(), *put_in_place(data))), sep="\n  ")
    except QuestionsError as error:
        print_error(error, os.environ)
        return 2
    except OSError as error:
        print_error(QuestionsError("folder-unwritable", folder=HARNESS, error=error), os.environ)
        return 2
    return 0


if __name__ == "__main__":
    guard(bars=True)
    sys.exit(main())
