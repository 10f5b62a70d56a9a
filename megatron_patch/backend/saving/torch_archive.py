"""torch.save's files, written front to back and read by places, without their numbers in memory.

torch 2.11 saves what is in memory, and its loader either runs what a pickle asks for or refuses the arguments that
Megatron stores beside the weights. The format is a zip of stored records: `data.pkl` with a reference for every
storage, and the storages as `data/KEY`.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

STORAGES = {
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
}
DTYPES = {storage.__name__: dtype for dtype, storage in STORAGES.items()}
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
        arguments = (_Storage(value), 0, value.shape, tuple(strides), False, OrderedDict())
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
    """Stands for everything that is no tensor: takes whatever a pickle does to it, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None:
        """Nothing."""

    def extend(self, values: object) -> None:
        """Nothing."""


class _Dict(dict[Any, Any]):
    """Stands for OrderedDict: that of a module has attributes too."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: Any, starts: dict[str, tuple[int, int]]) -> None:
        super().__init__(data)
        self._starts = starts
        self._rebuilders = {
            "_rebuild_tensor_v2": self._tensor,
            "_rebuild_tensor_v3": self._tensor,
            "_rebuild_parameter": lambda tensor, *_: tensor,
        }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in self._rebuilders:
            return self._rebuilders[name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if (module, name) == ("torch", "Size"):
            return tuple
        if module.partition(".")[0] in HARMLESS:
            return _Inert
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint needs: it may be an attack")

    def persistent_load(self, reference: Any) -> Any:
        _, dtype, key, _, numel = reference
        return (dtype if isinstance(dtype, torch.dtype) else None, str(key), int(numel))

    def _tensor(
        self, storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
    ) -> Stored:
        dtype, key, _ = storage
        start, nbytes = self._starts[key]
        plain = torch.empty(shape, device="meta").stride()
        if dtype is not None:
            start += offset * dtype.itemsize
            if offset < 0 or (offset + math.prod(shape)) * dtype.itemsize > nbytes:
                raise pickle.UnpicklingError(f"record {key} has {nbytes} bytes, its tensor {list(shape)} needs more")
        return Stored(dtype=dtype, shape=tuple(shape), contiguous=tuple(strides) == tuple(plain), start=start)


def read_archive(file: Path) -> Any:
    """What a file of torch.save holds, with a `Stored` for each tensor and nothing else rebuilt.

    Raises:
        pickle.UnpicklingError: it refers to what no checkpoint needs, or a record is shorter than its tensor.
        zipfile.BadZipFile, ValueError, KeyError, ...: it is damaged, or older than torch 1.6.
    """
    with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder, starts = pickled.removesuffix("data.pkl") + "data/", {}
        for record in archive.infolist():
            if not record.filename.startswith(folder):
                continue
            if record.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"record {record.filename} is compressed")
            stream.seek(record.header_offset)
            name_length, extra_length = struct.unpack("<26xHH", stream.read(30))
            start = record.header_offset + 30 + name_length + extra_length
            starts[record.filename.removeprefix(folder)] = (start, record.file_size)
        return _Unpickler(BytesIO(archive.read(pickled)), starts).load()
