"""torch.save's files, written front to back and read by places, without their numbers in memory.

torch 2.11 saves what is in memory, and its restricted loader refuses the arguments that Megatron stores beside the
weights. The format is a zip of stored records: `data.pkl` with a reference for every storage, and the storages as
`data/KEY`.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from megatron_patch.backend.saving.errors import DamagedCheckpoint

STORAGES = {
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
}
ALIGNMENT = 64
"""Bytes: tensors in a mapped file begin where torch's own begin."""
HARMLESS = (
    *("_codecs", "_io", "apex", "argparse", "builtins", "collections", "copyreg", "datetime", "enum", "functools"),
    *("io", "megatron", "numpy", "pathlib", "signal", "torch", "transformer_engine", "types"),
)
"""Modules that Megatron's checkpoints refer to beside the weights. Nothing of them is imported or run."""


@dataclass(frozen=True, kw_only=True)
class Promised:
    """A tensor that will be written: stands for it in the content of an archive."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor of an archive: what it is and where its numbers lie."""

    dtype: torch.dtype | None
    """None for element types that weights do not have."""
    shape: tuple[int, ...]
    contiguous: bool
    start: int
    """Of the first byte, from the start of the file."""


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Storage:
    promised: Promised


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        promised = value.promised
        return ("storage", STORAGES[promised.dtype], promised.key, "cpu", math.prod(promised.shape))

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Promised):
            return NotImplemented
        strides = torch.empty(value.shape, device="meta").stride()
        arguments: tuple[Any, ...] = (_Storage(value), 0, value.shape, tuple(strides), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class ArchiveWriter:
    """Writes one archive, one storage after another.

    with ArchiveWriter(stream, {"model": {"w": promised}}) as archive, archive.storage(promised) as storage:
        storage.write(bytes)
    """

    def __init__(self, stream: Any, content: Any) -> None:
        """
        Args:
            stream: written front to back, with `tell`.
            content: what torch.load will give, with a `Promised` in the place of each tensor.
        """
        self._stream, self._zip = stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED)
        pickled = BytesIO()
        _Pickler(pickled, protocol=2).dump(content)
        self._small("data.pkl", pickled.getvalue())
        self._small("byteorder", b"little")

    def _small(self, name: str, data: bytes) -> None:
        self._zip.writestr(zipfile.ZipInfo(f"archive/{name}"), data)

    @contextmanager
    def storage(self, promised: Promised) -> Iterator[Any]:
        """The record of a promised tensor, to write its bytes into."""
        info = zipfile.ZipInfo(f"archive/data/{promised.key}")
        zip64 = 20  # bytes that zipfile adds to the header
        start = self._stream.tell() + 30 + len(info.filename) + zip64 + 4
        padding = -start % ALIGNMENT
        info.extra = b"FB" + struct.pack("<H", padding) + b"\0" * padding
        with self._zip.open(info, "w", force_zip64=True) as record:
            yield record

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._small("version", b"3\n")
            self._zip.close()


# ---------------------------------------------------------------- reading


class _Inert:
    """Stands for everything that is not a tensor: takes whatever a pickle does to it, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...


def read_archive(file: Path) -> Any:
    """What a file of torch.save holds, with a `Stored` for each tensor and nothing else rebuilt.

    torch's own restricted loader reads it on the meta device, where it notes the place of each storage instead of
    reading it; classes of harmless modules are given inert ones for it.

    Raises:
        DamagedCheckpoint: it refers to what no checkpoint needs, or a record is shorter than its tensor.
        pickle.UnpicklingError: torch refuses what it refers to.
        zipfile.BadZipFile, RuntimeError, ValueError, ...: it is damaged, or older than torch 1.6.
    """
    records = _records(file)
    asked = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    for name in asked:
        if name.partition(".")[0] not in HARMLESS:
            raise DamagedCheckpoint("pickle-asks", name=name)
    with torch.serialization.safe_globals([(_Inert, name) for name in asked]):
        return _described(torch.load(file, map_location="meta", weights_only=True), records)


def _records(file: Path) -> dict[int, int]:
    """Where the bytes of each record begin, and how many they are."""
    found = {}
    with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                raise DamagedCheckpoint("archive-compressed", record=record.filename)
            stream.seek(record.header_offset)
            name_length, extra_length = struct.unpack("<26xHH", stream.read(30))
            found[record.header_offset + 30 + name_length + extra_length] = record.file_size
    return found


def _described(value: Any, records: dict[int, int]) -> Any:
    if isinstance(value, torch.Tensor):
        return _stored(value, records)
    if isinstance(value, Mapping):
        return {key: _described(inner, records) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_described(inner, records) for inner in value]
    return value


def _stored(tensor: torch.Tensor, records: dict[int, int]) -> Stored:
    start = int(tensor.untyped_storage()._checkpoint_offset or 0)
    first = int(tensor.storage_offset()) * tensor.itemsize
    if first + tensor.nbytes > records[start]:
        facts = {"start": start, "bytes": records[start], "shape": str(list(tensor.shape))}
        raise DamagedCheckpoint("archive-record-short", **facts)
    return Stored(
        dtype=tensor.dtype if tensor.dtype in STORAGES else None,
        shape=tuple(tensor.shape),
        contiguous=tensor.is_contiguous(),
        start=start + first,
    )
