"""Data sets of the Hugging Face hub as they lie on this machine, in the layout in which they are published.

A place may be a clone of the data set's repository, a folder with its files (`main/train-00000-of-00001.parquet`,
`ifeval_input_data.jsonl`), a folder of several such, or a cache of the hub (`datasets--Rowan--hellaswag`). Nothing is
downloaded, and no script of a data set runs: `datasets` 5 has no such thing any more.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.evaluation.data import HARNESS

ENDINGS = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".arrow", ".gz", ".zst", ".zip", ".txt")
BUILDERS = ("json", "csv", "parquet", "text", "arrow", "pandas", "xml", "imagefolder", "audiofolder")
"""Names that are a file format, with the files in `data_files`."""

SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.parquet")


class NoData(UserError):
    """A data set that is not here, or not what its task needs."""


@dataclass(frozen=True)
class LocalDatasets:
    """Where data sets are looked for."""

    places: tuple[Path, ...]
    """Empty: LM-Evaluation-Harness, the working folder, the folder that holds the checkout, and the hub's cache."""
    cache: Path
    """What `datasets` makes of the files lies below its `datasets/`."""

    def load(self, path: str, name: str | None, options: dict[str, Any]) -> datasets.DatasetDict:
        """What `datasets.load_dataset` would give.

        Args:
            path: of the hub, such as `Rowan/hellaswag`.
            name: the configuration, such as `ARC-Easy`.
        Raises:
            NoData: it is not here; says where it is published.
        """
        if path in BUILDERS:
            return self._of_files(path, name, options)
        folder = self._find(path)
        if folder is None:
            raise NoData("dataset-absent", name=path, places=self.places or Message("dataset-usual-places"))
        place = self.cache / "datasets" / fingerprint(folder)[:16]
        try:
            return _load(folder, name, place)
        except Exception as error:  # whatever datasets makes of foreign files
            raise NoData("dataset-unreadable", folder=folder, name=path, error=_in_a_line(error)) from error

    def _of_files(self, builder: str, name: str | None, options: dict[str, Any]) -> datasets.DatasetDict:
        """A task that names its files."""
        if "://" in str(options.get("data_files")):
            raise NoData("dataset-remote", files=str(options["data_files"]))
        return datasets.load_dataset(builder, name, **options)

    def _find(self, path: str) -> Path | None:
        owner, _, short = path.rpartition("/")
        names = dict.fromkeys([path, short, f"datasets--{owner}--{short}"])
        usual = (HARNESS, Path.cwd(), HARNESS.parent.parent, Path(constants.HF_HUB_CACHE))
        for place in self.places or usual:
            for folder in (place / one for one in names):
                if found := _with_files(folder):
                    return found
            if self.places and place.name in names and (found := _with_files(place)):
                return found
        return None


def _with_files(folder: Path) -> Path | None:
    """A folder that has data somewhere below it; of a cache of the hub, its newest snapshot."""
    snapshots = folder / "snapshots"
    if snapshots.is_dir():
        taken = sorted(snapshots.iterdir(), key=lambda one: one.stat().st_mtime)
        return next((one for one in reversed(taken) if any(_files(one))), None)
    return folder.resolve() if folder.is_dir() and any(_files(folder)) else None


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.name.endswith(ENDINGS) and file.is_file())


@functools.cache
def fingerprint(folder: Path) -> str:
    """SHA-256 over names and contents: `datasets` takes what it read before for files that have changed since."""
    digest = hashlib.sha256()
    for file in _files(folder):
        with file.open("rb") as content:
            part = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder)} {part}\n".encode())
    return digest.hexdigest()


def _load(folder: Path, name: str | None, cache: Path) -> datasets.DatasetDict:
    if not (folder / "README.md").is_file() and (inside := _published_files(folder / (name or "."))):
        return datasets.load_dataset("parquet", data_files=inside, cache_dir=str(cache))
    known = datasets.get_dataset_config_names(str(folder))
    if name is None or name in known:
        return datasets.load_dataset(str(folder), name, cache_dir=str(cache))
    if (folder / name).is_dir():
        return datasets.load_dataset(str(folder / name), cache_dir=str(cache))
    folders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    raise NoData("dataset-configuration", name=name, known=[*known, *folders][:8])


def _published_files(folder: Path) -> dict[str, list[str]]:
    """The hub's Parquet files of one configuration by split; empty where there are others too.

    Without the README, `datasets` would guess: it takes `dev` and `validation` for one.
    """
    found: dict[str, list[str]] = {}
    for file in _files(folder):
        match = SHARD.fullmatch(file.name)
        if match is None or file.parent not in (folder, folder / "data"):
            return {}
        found.setdefault(match["split"], []).append(str(file))
    return found


def _in_a_line(error: Exception) -> NoData | str:
    first = next(iter(str(error).strip().splitlines()), "")
    return error if isinstance(error, NoData) else f"{type(error).__name__}: {first}"
