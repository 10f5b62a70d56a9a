"""Where Megatron keeps the shuffled sample indices, so that they belong to the data and are whole.

GPTDataset 0.19.2 names its index files after the data's path: data rebuilt at the same path are read through the old
index without a word, and a file that a killed run left half written is loaded for ever after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_patch.trainer.errors import DataError


def cache_folder(root: Path, prefixes: Iterable[str]) -> Path:
    """The folder for indices over these data: another content means another folder.

    Args:
        root: `cache/` of the output folder.
        prefixes: idxmap prefixes, without `.bin` and `.idx`.
    Raises:
        DataError: files are missing, or their sizes do not agree.
    """
    digest = hashlib.sha256()
    for prefix in prefixes:
        digest.update(_identity(prefix))
    return root / digest.hexdigest()[:16]


def _identity(prefix: str) -> bytes:
    """Hash of the `.idx`, with size and time of the `.bin` (which may be terabytes)."""
    index, data = Path(prefix + ".idx"), Path(prefix + ".bin")
    for path in (index, data):
        if not path.is_file():
            raise DataError(f"{path} does not exist: an idxmap data set is a .bin and an .idx")
    _check_sizes(prefix, data)
    with index.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").digest()
    stat = data.stat()
    return content + f"{prefix} {stat.st_size} {stat.st_mtime_ns}".encode()


def _check_sizes(prefix: str, data: Path) -> None:
    """The `.bin` must be as long as the `.idx` says: Megatron maps it unseen and trains on what lies behind."""
    try:
        dataset = IndexedDataset(prefix, mmap=False)
        lengths, itemsize = dataset.sequence_lengths, np.dtype(dataset.index.dtype).itemsize
    except Exception as error:
        raise DataError(f"{prefix}.idx cannot be read: {error}") from error
    expected, found = int(lengths.sum(dtype=np.int64)) * itemsize, data.stat().st_size
    if expected != found:
        raise DataError(f"{data} has {found} bytes, but its index describes {expected}: make it again")
    if expected == 0:
        raise DataError(f"{data} holds no token")


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
    return path.stat().st_size == array.offset + array.nbytes
