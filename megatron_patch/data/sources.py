"""Which files of a folder are data. Standard library only: the launcher asks too."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import JsonError, read_object
from megatron_patch.data.jsonl import DataError
from megatron_patch.runs import folder as run_folder

SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow")
PACKED = (".gz", ".zst")
"""Suffixes of compressed files, behind one of the others."""
MOST_ENTRIES = 50_000
"""Of a folder that is looked through."""
SPLITS = "dataset_dict.json"
"""What `DatasetDict.save_to_disk` leaves beside its splits."""


def plain_suffix(path: Path) -> str:
    """The suffix under that of the compression: `.jsonl` of `a.jsonl.zst`. A link's own, not that of its target."""
    return path.with_suffix("").suffix if path.suffix in PACKED else path.suffix


def is_source(path: Path) -> bool:
    """Whether a path is a file that the row reader takes."""
    return path.is_file() and plain_suffix(path) in SUFFIXES


SPLIT = re.compile(r"(train|test|valid|validation|val|dev|eval)(?![a-z])", re.IGNORECASE)
"""What names of files begin with, where they are parts of a dataset for different uses."""


def about_data(path: Path) -> bool:
    """Whether a file of a folder is not data, whatever its suffix: what `datasets` and LLaMA-Factory say about the
    files beside it, and what `datasets` keeps of a `map`, rows once more."""
    if path.name in ("dataset_info.json", "dataset_infos.json", SPLITS):
        return True
    if path.name == "state.json":
        return path.with_name("dataset_info.json").exists()
    return path.suffix == ".arrow" and path.name.startswith("cache-")


def _splits_of(folder: Path) -> list[str]:
    """Of a DatasetDict that was saved there; empty where there is none."""
    try:
        found = read_object(folder / SPLITS).get("splits")
    except (OSError, JsonError):
        return []
    return [str(name) for name in found] if isinstance(found, list) else []


def of_a_run(folder: Path) -> bool:
    """Whether training has written to this folder: its plan, metrics and reports are JSON, too."""
    return all((folder / name).is_file() for name in (run_folder.PLAN, run_folder.COMMAND))


def visible(folder: Path, pattern: str = "*") -> Iterator[Path]:
    """Files in a folder and below it, by path, without hidden ones (`.ipynb_checkpoints` holds copies of the others)
    and without the folders of runs.

    Raises:
        DataError: more than MOST_ENTRIES files and folders, as in /usr.
    """
    found, entries = [], 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not of_a_run(Path(place, name))]
        entries += len(folders) + len(names)
        if entries > MOST_ENTRIES:
            raise DataError("folder-too-large", folder=folder, most=MOST_ENTRIES)
        found += [Path(place, name) for name in fnmatch.filter(names, pattern) if not name.startswith(".")]
    yield from (path for path in sorted(found) if path.is_file())


def left_out(path: str | Path, *, idxmap: bool = False) -> list[Message]:
    """What a folder of data files holds and nobody reads: hidden data files, files of other kinds, and runs; and
    that several splits are read as one.

    Nothing for a file. Looks at MOST_ENTRIES files and folders at most.

    Args:
        idxmap: the data are pairs of .bin and .idx; beside them lie many other files, which are not told.
    """
    hidden, other, read, runs, entries = [], [], [], [], 0
    for place, folders, names in os.walk(path):
        ours = [name for name in sorted(folders) if of_a_run(Path(place, name))]
        folders[:] = [name for name in folders if name not in ours]
        runs += [str(Path(place, name).relative_to(path)) for name in ours]
        entries += 1 + len(names)
        if entries > MOST_ENTRIES:
            break
        below = Path(place).relative_to(path)
        for name in sorted(names):
            is_hidden = name.startswith(".") or any(part.startswith(".") for part in below.parts)
            is_data = name.endswith(".idx") if idxmap else _looks_like_data(Path(place, name))
            if is_hidden and is_data:
                hidden.append(str(below / name))
            elif is_data and not idxmap:
                read.append(name)
            elif not idxmap and not is_hidden and not is_data and Path(place, name).is_file():
                other.append(str(below / name))
    told = (("left-out-hidden", hidden), ("left-out-other", other), ("left-out-runs", runs))
    found = [Message(code, folder=path, files=len(names), names=_first(names)) for code, names in told if names]
    splits = sorted({match[0].lower() for match in map(SPLIT.match, read) if match})
    return found + ([Message("all-splits-read", folder=path, splits=splits)] if len(splits) > 1 else [])


def _looks_like_data(path: Path) -> bool:
    return plain_suffix(path) in SUFFIXES and not about_data(path)


def _first(names: list[str]) -> list[str]:
    return names if len(names) <= 4 else [*names[:3], "..."]


def find_sources(paths: Sequence[str | Path]) -> list[Path]:
    """The data files that these files and folders hold, folders sorted by path.

    Raises:
        DataError: every path that does not exist, has another suffix, or holds nothing, all in one go.
    """
    found: list[Path] = []
    wrong: list[Message] = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = [file for file in visible(path) if is_source(file) and not about_data(file)]
        if not path.exists():
            wrong.append(Message("no-such-file", files=path))
        elif len(splits := _splits_of(path)) > 1:
            wrong.append(Message("folder-of-splits", folder=path, splits=splits, first=path / splits[0]))
        elif path.is_dir() and not any(path.iterdir()):
            wrong.append(Message("folder-empty", folder=path))
        elif path.is_dir() and of_a_run(path):
            wrong.append(Message("folder-of-a-run", folder=path))
        elif not inside or not is_source(inside[0]):
            wrong.append(Message("raw-no-file", path=path, suffixes=SUFFIXES, packed=PACKED))
        found += inside
    if wrong:
        raise DataError.of(wrong)
    return found
