"""Where Megatron keeps the shuffled sample indices, so that they belong to the data and are whole.

GPTDataset 0.19.2 names its index files after the data's path: data rebuilt at the same path are read through the old
index without a word, and a file that a killed run left half written is loaded for ever after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from megatron_patch.data.content import idxmap_identity
from megatron_patch.data.idxmap.reader import BrokenIndex
from megatron_patch.data.idxmap.writer import whole_index
from megatron_patch.trainer.errors import DatasetError


def cache_folder(root: Path, prefixes: Iterable[str]) -> Path:
    """The folder for indices over these data: another content means another folder.

    Args:
        root: `cache/` of the output folder.
        prefixes: idxmap prefixes, without `.bin` and `.idx`.
    Raises:
        DatasetError: files are missing, or their sizes do not agree.
    """
    digest = hashlib.sha256()
    for prefix in prefixes:
        digest.update(_identity(prefix))
    return root / digest.hexdigest()[:16]


def _identity(prefix: str) -> bytes:
    """Of both files' content: copies on other machines, with times of their own, have the same."""
    for path in (Path(prefix + ".idx"), Path(prefix + ".bin")):
        if not path.is_file():
            raise DatasetError("cache-missing", path=path)
    try:
        index = whole_index(Path(prefix))
    except BrokenIndex as error:
        raise DatasetError("cache-unusable", error=error) from error
    if not index.bytes:
        raise DatasetError("cache-empty", prefix=prefix)
    return f"{prefix} {idxmap_identity(prefix)}".encode()


def drop_torn_indices(folder: Path) -> list[Path]:
    """Delete index files that were not written to their end, so that they are built again.

    Returns:
        What was deleted.
    """
    torn = [path for path in sorted(folder.glob("*.npy")) if not _is_whole(path)]
    for path in torn:
        path.unlink()
    return torn


def _is_whole(path: Path) -> bool:
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError):
        return False
    return bool(path.stat().st_size == array.offset + array.nbytes)
