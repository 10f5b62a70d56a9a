"""Real text that is on every machine: the sources of Python's standard library, as JSON Lines.

    python -m megatron_patch.data.stdlib_text FOLDER      writes FOLDER/train.jsonl and FOLDER/valid.jsonl

One file is one document, `{"text": ..., "path": ...}`. About one in twenty goes to validation, by a hash of its
path, so that the split stays when files come and go. Left out: other people's packages, tests, and two packages
that are tables rather than text.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError, print_error
from megatron_patch.common.files import write_text
from megatron_patch.common.messages import Message
from megatron_patch.common.terminal import guard
from megatron_patch.data.jsonl import DataError

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
VALIDATION_SHARE = 20
"""One document in so many is for validation."""
SMALLEST_CORPUS = 2_000_000
"""Bytes; a Python installed without its sources has less."""


def source_files() -> Iterator[tuple[str, Path]]:
    """Path relative to the library, and the file, sorted."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if not LEFT_OUT & set(relative.parts):
            yield relative.as_posix(), path


def is_validation(relative: str) -> bool:
    """Whether this document is held out."""
    return zlib.crc32(relative.encode()) % VALIDATION_SHARE == 0


def write_corpus(folder: Path) -> Message:
    """Write both files beside their place, move them there, and say what they hold.

    Raises:
        DataError: this Python came without its sources.
    """
    lines: dict[str, list[str]] = {"train": [], "valid": []}
    total = undecodable = 0
    for relative, path in source_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            undecodable += 1
            continue
        total += len(text)
        split = "valid" if is_validation(relative) else "train"
        lines[split].append(json.dumps({"text": text, "path": relative}, ensure_ascii=False) + "\n")
    if total < SMALLEST_CORPUS:
        raise DataError("stdlib-small", folder=sysconfig.get_path("stdlib"), characters=total)
    written = write_splits(folder, lines)
    return Message("stdlib-text", millions=total / 1e6, written=written, undecodable=undecodable)


def write_splits(folder: Path, lines: dict[str, list[str]]) -> list[str]:
    """FOLDER/SPLIT.jsonl of each split, whole or not at all; returns how many lines each has."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in lines.items():
        write_text(folder / f"{split}.jsonl", "".join(rows))
    return [f"{split} {len(rows)}" for split, rows in lines.items()]


def main(write: Callable[[Path], Message], description: str | None) -> int:
    """One argument, the folder; returns the exit status."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    try:
        print(write(parser.parse_args().folder).localized())
    except UserError as error:
        print_error(error, os.environ)
        return 1
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main(write_corpus, __doc__))
