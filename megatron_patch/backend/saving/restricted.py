"""Unpickling what checkpoints hold beside tensors, and nothing else: a file that somebody gives us runs no code.

torch 2.11 reads `.metadata` by `pickle.load` and objects by `torch.load(weights_only=False)`: both run whatever a
pickle names. Here each form has its list of classes that honest checkpoints need.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from megatron_patch.backend.patching import BackendError, wrap
from megatron_patch.backend.saving.errors import DamagedCheckpoint
from megatron_patch.backend.saving.optimizer_fixes import drop_offloaders_own
from megatron_patch.runs.stored_chunks import ChunkError, check_metadata, read_checksums

METADATA_CLASSES = {
    (module, name)
    for module, names in {
        "torch.distributed.checkpoint.metadata": (
            "Metadata TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata TensorProperties "
            "MetadataIndex StorageMeta _MEM_FORMAT_ENCODING"
        ),
        "torch.distributed.checkpoint.filesystem": "_StorageInfo",
        "torch.serialization": "_get_layout",
        "torch": (
            "Size device float32 float16 bfloat16 float64 int64 int32 int16 int8 uint8 bool strided "
            "float8_e4m3fn float8_e5m2 uint16 uint32 uint64"
        ),
        "collections": "OrderedDict",
        "pathlib": "Path PosixPath PurePosixPath",
        "pathlib._local": "Path PosixPath PurePosixPath",
    }.items()
    for name in names.split()
}
"""Everything that the `.metadata` of an honest checkpoint refers to."""
OPTIMIZER_CLASSES = (
    "torch.optim.adamw.AdamW",
    "transformer_engine.pytorch.optimizers.fused_adam.FusedAdam",
)
"""What checkpoints of an optimizer in RAM named until 2026-11-27, beside rates; nothing is made of them."""
PLACEHOLDERS = ("MCoreMetadata", "MCoreSavePlan")
"""Empty classes that Megatron up to 0.15 stored; their state is dropped."""


class _Placeholder:
    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in METADATA_CLASSES:
            return super().find_class(module, name)
        if module == "megatron.core.dist_checkpointing.strategies.torch" and name in PLACEHOLDERS:
            return _Placeholder
        raise DamagedCheckpoint("pickle-asks", name=f"{module}.{name}")


def parse_metadata(content: bytes, file: Path) -> Metadata:
    """What a `.metadata` holds.

    Args:
        file: for messages.
    Raises:
        DamagedCheckpoint: it is damaged, or refers to anything but torch's metadata classes.
    """
    try:
        found = _MetadataUnpickler(io.BytesIO(content)).load()
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint.at(file, "archive-refused", error=error) from None
    except Exception as error:  # a damaged pickle raises a dozen types
        raise DamagedCheckpoint.at(file, "metadata-damaged", error=repr(error)) from None
    if not isinstance(found, Metadata) or not isinstance(found.storage_data, dict):
        raise DamagedCheckpoint.at(file, "metadata-not-torch")
    outside = [place.relative_path for place in found.storage_data.values() if not _is_plain(place.relative_path)]
    if outside:
        raise DamagedCheckpoint.at(file, "metadata-outside", name=repr(outside[0]))
    return found


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


def load_object(stream: io.BytesIO, what: str) -> Any:
    """An object that torch.save wrote: plain values, tensors, and the classes that Megatron's checkpoints need.

    Args:
        what: it is, for messages.
    Raises:
        DamagedCheckpoint: it is damaged, or refers to anything else.
    """
    try:
        content = torch.load(stream, map_location=None, weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedCheckpoint.at(what, "archive-refused", error=_short(error)) from None
    except Exception as error:
        raise DamagedCheckpoint.at(what, "metadata-damaged", error=repr(error)) from None
    drop_offloaders_own(content)
    return content


def _short(error: Exception) -> str:
    """torch's message without its advice to load the file all the same."""
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    return text.splitlines()[0][:200]


def restrict_unpickling() -> None:
    """Let Megatron and torch read checkpoints through this module alone."""
    from megatron.core import safe_globals

    # arguments, random states and enumerations; torch's own containers and tensors need no entry
    torch.serialization.add_safe_globals(safe_globals.SAFE_GLOBALS)
    torch.serialization.add_safe_globals([(_Placeholder, name) for name in OPTIMIZER_CLASSES])

    @wrap(FileSystemReader, "read_metadata", why="2.11 unpickles .metadata, which may run code")
    def read_metadata(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Metadata:
        file = Path(self._get_metadata_path(kwargs.get("rank")))
        if getattr(self, "parsed", (None,))[0] == file:
            return self.parsed[1]
        try:
            self.checksums = read_checksums(file.parent)
            content = file.read_bytes()
            if self.checksums is not None:
                check_metadata(file.parent, self.checksums, content)
        except ChunkError as error:
            raise DamagedCheckpoint.of(error.messages) from None
        except FileNotFoundError:
            raise DamagedCheckpoint.at(file, "missing") from None
        found = parse_metadata(content, file)
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        self.parsed = (file, found)
        return found

    @wrap(dcp, "load", why="2.11 swallows what is wrong with .metadata, and hides in its own errors what readers raise")
    def load(original: Callable[..., Any], state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        for reader in (*args, *kwargs.values()):
            if isinstance(reader, FileSystemReader):
                reader.read_metadata()
        try:
            return original(state_dict, *args, **kwargs)
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            if causes and all(isinstance(cause, BackendError) for cause in causes):
                raise causes[0] from None
            raise

    @wrap(DefaultLoadPlanner, "load_bytes", why="2.11 unpickles objects with weights_only=False, which may run code")
    def load_bytes(original: Callable[..., Any], self: Any, read_item: Any, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        content = load_object(value, name)
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[name], content)
        else:
            self.state_dict[name] = content

    @wrap(safe_globals.SafeUnpickler, "find_class", why="0.19.2 lets fp8 state name torch's unrestricted loader")
    def find_class(original: Callable[..., Any], self: Any, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return safe_globals.safe_load_from_bytes
        return original(self, module, name)
