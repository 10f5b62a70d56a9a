"""A Hugging Face model folder: what it holds, and everything that can be wrong with it. Imports no torch."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.contents import INDEX, SINGLE_FILE, TRACKER, read_config
from megatron_patch.checkpoint.errors import CheckpointError, sizes
from megatron_patch.checkpoint.formats.safetensors_io import FileCache, TensorEntry, read_header
from megatron_patch.common.messages import Message, at
from megatron_patch.common.strict_json import read_json
from megatron_patch.data.tokenizers.sentencepiece import find_sentencepiece
from megatron_patch.models import ConfigError, ModelConfig, model_as_named
from megatron_patch.models.weight_map import hf_shapes

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""PR as typed, and as `config.json` and torch spell it."""
SAFETENSORS_DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
COMPANIONS = (
    *("*.json", "*.jinja", "additional_chat_templates/*.jinja", "*.model", "*.txt"),
    *("*.md", "LICENSE*", "NOTICE*", "USE_POLICY*"),
)
"""What travels with the weights: configuration, tokenizer, chat templates, papers."""
NOT_COMPANIONS = (
    "config.json",
    "*.index.json",
    "manifest.json",
    "check.json",
    TRACKER,
    ".*",
)


@dataclass(kw_only=True)
class HFFolder:
    """An opened folder of safetensors, or of pickles where that was allowed."""

    path: Path
    config: dict[str, Any]
    model: ModelConfig
    tensors: dict[str, TensorEntry]
    """By name; empty for a pickle folder, whose tensors only torch can list."""
    pickles: list[Path] = field(default_factory=list)
    notes: list[Message] = field(default_factory=list)
    """What was seen and set aside, for the user to read."""
    tied_twin: TensorEntry | None = None
    """`lm_head.weight`, where it is stored although config.json ties it to the embedding."""
    files: FileCache = field(default_factory=FileCache)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, unpadded."""
        assert self.model.vocab_size is not None  # model_from_hf_config demands it
        return self.model.vocab_size

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.tensors.values())

    def element_type(self, name: str) -> str:
        """As safetensors spells it."""
        return self.tensors[name].dtype

    def view_rows(self, name: str, start: int, rows: int) -> memoryview:
        """The rows of a tensor from `start`, mapped."""
        entry = self.tensors[name]
        return self.files.view(entry.file, entry.offset + start * entry.row_bytes, rows * entry.row_bytes)

    def read_rows(self, name: str, start: int, view: memoryview) -> None:
        """Fill `view` with the rows of a tensor from `start`."""
        entry = self.tensors[name]
        self.files.read_into(entry.file, entry.offset + start * entry.row_bytes, view)


def model_of(config: Mapping[str, Any], file: str, size: str) -> ModelConfig:
    """The model that a `config.json` describes, held against the named size.

    Args:
        file: where the config comes from, for messages.
        size: of any family, or `auto` to take what the config says.
    Raises:
        CheckpointError: they disagree (each line names both values), or Megatron cannot represent the model.
    """
    try:
        return model_as_named(config, size, file)
    except ConfigError as error:
        raise CheckpointError.of(error.messages) from None


def open_hf_folder(path: Path, size: str, *, allow_pickle: bool = False) -> HFFolder:
    """Open a model folder and check all of it that can be checked without reading the weights.

    Raises:
        CheckpointError: with every problem found.
    """
    if not path.is_dir():
        raise CheckpointError.at(path, "no-such-folder")
    config = read_config(path)
    model = model_of(config, str(path / "config.json"), size)
    folder = HFFolder(path=path, config=config, model=model, tensors={})
    if not any((path / name).exists() for name in (INDEX, SINGLE_FILE)):
        folder.pickles = _pickles(path, allow_pickle)
        return folder
    entries = _indexed(path) if (path / INDEX).exists() else read_header(path / SINGLE_FILE)
    folder.tensors = select_tensors(entries, model, path, folder.notes)
    folder.tied_twin = entries.get("lm_head.weight") if model.tie_embeddings else None
    return folder


def _pickles(path: Path, allowed: bool) -> list[Path]:
    found = sorted([*path.glob("pytorch_model*.bin"), *path.glob("consolidated*.pth")])
    if not found:
        raise CheckpointError.at(path, "weights-absent", single=SINGLE_FILE, index=INDEX)
    if not allowed:
        raise CheckpointError.at(path, "weights-pickled", file=found[0].name)
    if found[0].suffix == ".pth":
        raise CheckpointError.at(path, "weights-meta", file=found[0].name)
    return found


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that no file can have
        return False


def _indexed(path: Path) -> dict[str, TensorEntry]:
    try:
        weight_map: Mapping[str, str] = read_json(path / INDEX)["weight_map"]
        names = sorted({name for name in weight_map.values() if isinstance(name, str)})
        if len(names) != len(set(weight_map.values())):
            raise CheckpointError("index-names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError.at(path / INDEX, "index-unreadable", error=error) from None
    problems: list[Message] = []
    entries: dict[str, Any] = {}
    if (path / SINGLE_FILE).is_file() and SINGLE_FILE not in names:
        raise CheckpointError.at(path, "index-beside-single")
    for name in names:
        file = path / name
        if Path(name).name != name or not _is_file(file):
            problems.append(at(file, "shard-missing", index=INDEX, shards=len(names)))
            continue
        try:
            header = read_header(file)
        except CheckpointError as error:
            problems += error.messages
            continue
        wanted = {tensor for tensor, where in weight_map.items() if where == name}
        problems += [at(file, "shard-lacks", index=INDEX, tensor=name) for name in sorted(wanted - set(header))]
        problems += [at(file, "shard-extra", index=INDEX, tensor=name) for name in sorted(set(header) - wanted)]
        entries |= header
    if problems:
        raise CheckpointError.of(problems)
    return entries


def select_tensors(
    entries: dict[str, TensorEntry], model: ModelConfig, path: Path, notes: list[Message]
) -> dict[str, TensorEntry]:
    """Of what a folder holds, the tensors of the architecture; everything else is a problem or a note.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or is not one of the architecture.
    """
    assert model.vocab_size is not None
    wanted = hf_shapes(model, model.vocab_size)
    missing, extra = sorted(wanted.keys() - entries.keys()), sorted(entries.keys() - wanted.keys())
    problems = [at(path, "tensor-missing", tensor=name) for name in missing]
    for name in extra:
        if name.endswith("rotary_emb.inv_freq"):
            notes.append(Message("left-out-computed", tensor=name))
        elif name == "lm_head.weight" and model.tie_embeddings:
            notes.append(Message("left-out-tied", tensor=name))
        else:
            problems.append(at(path, "tensor-foreign", tensor=name))
    for name in wanted.keys() & entries.keys():
        found = entries[name].shape
        if found != wanted[name]:
            problems.append(at(path, "tensor-shape", tensor=name, found=sizes(found), wanted=sizes(wanted[name])))
    if problems:
        raise CheckpointError.of(_shortened(problems))
    return {name: entries[name] for name in wanted}


def _shortened(problems: list[Message], most: int = 20) -> list[Message]:
    rest = len(problems) - most
    return problems if rest <= 0 else [*problems[:most], Message("and-more-tensors", count=rest)]


def companions(folder: Path) -> list[Path]:
    """The files that travel with the weights beside `config.json`, none of them large."""
    found = {file for pattern in COMPANIONS for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not any(file.match(pattern) for pattern in NOT_COMPANIONS))


def copy_companions(source: Path, target: Path, config: Mapping[str, Any], precision: str) -> None:
    """Copy what travels with the weights, and write `config.json` with the element type of the new weights.

    A SentencePiece model alone gets a tokenizer.json, as transformers takes every bare model for Llama 2's.

    Args:
        precision: fp32, fp16 or bf16.
    """
    for file in companions(source):
        place = target / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, place)
    model = find_sentencepiece(source)
    if model is not None:
        from megatron_patch.data.tokenizers.sentencepiece_hf import write_hf_tokenizer

        print(write_hf_tokenizer(model, target).localized(), file=sys.stderr)
    named = {key: DTYPES[precision] for key in ("torch_dtype", "dtype") if key in config}
    written = {**config, **(named or {"torch_dtype": DTYPES[precision]})}
    (target / "config.json").write_text(json.dumps(written, indent=2) + "\n")
