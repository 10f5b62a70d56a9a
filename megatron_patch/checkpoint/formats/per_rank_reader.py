"""Reading Megatron's old format, `mp_rank_XX_YYY/model_optim_rng.pt`, of every TP, PP and VPP, by row ranges.

With the names of both layer specs, or of Megatron's models before megatron-core. Weights only: arguments, optimizer
and random states are passed over, and nothing that the pickles refer to is imported or run.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_patch.backend.saving.errors import DamagedCheckpoint
from megatron_patch.backend.saving.torch_archive import Stored, read_archive
from megatron_patch.checkpoint.contents import PER_RANK_FILE, is_per_rank
from megatron_patch.checkpoint.errors import CheckpointError, of_layer, sizes
from megatron_patch.checkpoint.formats.safetensors_io import FileCache
from megatron_patch.checkpoint.formats.sources import MegatronReader, bytes_of
from megatron_patch.checkpoint.formats.torch_dist import SAFETENSORS_NAMES, TorchDistReader
from megatron_patch.models.weight_map import COLUMNS, HALVES, LAYER_WEIGHTS, MEGATRON_LAYER, WHOLE, split_of

OTHER_NAMES = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
    "input_norm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "post_attention_norm.weight": "mlp.linear_fc1.layer_norm_weight",
    "post_attention_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
    "self_attention.query_key_value.weight": "self_attention.linear_qkv.weight",
    "self_attention.query_key_value.bias": "self_attention.linear_qkv.bias",
    "self_attention.dense.weight": "self_attention.linear_proj.weight",
    "mlp.dense_h_to_4h.weight": "mlp.linear_fc1.weight",
    "mlp.dense_4h_to_h.weight": "mlp.linear_fc2.weight",
    "final_norm.weight": "final_layernorm.weight",
}
"""Of the local layer spec and of Megatron before megatron-core, without what stands in front."""
BIASES = {MEGATRON_LAYER + weight.megatron for weight in LAYER_WEIGHTS if weight.megatron.endswith(".bias")}
OTHER_PREFIXES = {"language_model.encoder.": "decoder.", "language_model.": ""}
LEFT_OUT = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq", "word_embeddings_for_head.weight")


def open_megatron(folder: Path, *, tied: bool) -> MegatronReader:
    """The weights of one iteration, in either format.

    Args:
        tied: config.json ties the embeddings.
    Raises:
        CheckpointError: it is damaged.
    """
    return PerRankReader(folder, tied=tied) if is_per_rank(folder) else TorchDistReader(folder)


@dataclass(frozen=True, kw_only=True)
class _Box:
    """Rows and columns of a tensor, and where they lie, row after row."""

    row: int
    rows: int
    column: int
    columns: int
    file: Path
    start: int


class PerRankReader(MegatronReader):
    """The weights of one iteration, under the names of the torch_dist format."""

    def __init__(self, folder: Path, *, tied: bool) -> None:
        """
        Args:
            folder: `iter_NNNNNNN` or `release`.
            tied: config.json ties the embeddings: the last stage's copy is left out.
        Raises:
            CheckpointError: a rank's file is missing, damaged, or holds no weights of a Llama.
        """
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Layer axis included."""
        self._element_types: dict[str, str] = {}
        self._boxes: dict[tuple[str, int | None], list[_Box]] = {}
        self.files = FileCache()
        parts = _weights_of_ranks(folder)
        if tied:
            parts.pop(("output_layer.weight", None), None)
        for (name, layer), pieces in parts.items():
            self._add(name, layer, pieces)
        layers = [layer for _, layer in parts if layer is not None]
        self._stack(1 + max(layers, default=-1))

    def _add(self, name: str, layer: int | None, pieces: list[tuple[Path, Stored]]) -> None:
        """Lay the ranks' pieces of one tensor beside or upon each other."""
        (_, first), tensor = pieces[0], of_layer(name, layer)
        for file, piece in pieces:
            if piece.dtype is None or not piece.contiguous:
                raise CheckpointError.at(file, "ranks-not-plain", tensor=name)
            if (piece.dtype, piece.shape) != (first.dtype, first.shape):
                shapes = {"one": sizes(first.shape), "other": sizes(piece.shape)}
                raise CheckpointError.at(self.folder, "ranks-differ", tensor=tensor, **shapes)
        assert first.dtype is not None
        shape, boxes = _placed(name, pieces, first.dtype.itemsize)
        element_type = SAFETENSORS_NAMES[first.dtype]
        if self._element_types.setdefault(name, element_type) != element_type or self.shapes.get(name, shape) != shape:
            facts = {"tensor": tensor, "shape": sizes(shape), "dtype": element_type}
            raise CheckpointError.at(self.folder, "ranks-unlike-layers", **facts)
        self.shapes[name], self._boxes[name, layer] = shape, boxes

    def _stack(self, num_layers: int) -> None:
        for name in [name for name in self.shapes if name.startswith(MEGATRON_LAYER)]:
            missing = [layer for layer in range(num_layers) if (name, layer) not in self._boxes]
            if missing:
                raise CheckpointError.at(self.folder, "ranks-layers-missing", tensor=name, layers=missing)
            self.shapes[name] = (num_layers, *self.shapes[name])

    def element_type(self, name: str) -> str:
        """F32, F16 or BF16."""
        return self._element_types[name]

    def read_rows(self, name: str, layer: int | None, start: int, out: torch.Tensor) -> None:
        """Fill `out`, `[rows, columns]` or `[rows]` in the stored type, with rows from `start` of one layer."""
        for box in self._boxes[name, layer]:
            first, last = max(start, box.row), min(start + out.shape[0], box.row + box.rows)
            if first >= last:
                continue
            part = out[first - start : last - start]
            if out.dim() == 2:
                part = part[:, box.column : box.column + box.columns]
            target = part if part.is_contiguous() else torch.empty_like(part, memory_format=torch.contiguous_format)
            offset = box.start + (first - box.row) * box.columns * out.element_size()
            self.files.read_into(box.file, offset, bytes_of(target))
            if target is not part:
                part.copy_(target)


def _placed(name: str, pieces: list[tuple[Path, Stored]], itemsize: int) -> tuple[tuple[int, ...], list[_Box]]:
    """The shape of the whole tensor, and where each rank's piece of it lies."""
    rows, *rest = pieces[0][1].shape
    columns, tp, split = (rest[0] if rest else 1), len(pieces), split_of(name, 1 + len(rest))
    if split == WHOLE:
        file, piece = pieces[0]
        return (rows, *rest), [_Box(row=0, rows=rows, column=0, columns=columns, file=file, start=piece.start)]
    halves = 2 if split == HALVES else 1
    part, boxes = rows // halves, []
    for rank, (file, piece) in enumerate(pieces):
        for half in range(halves):
            row, column = (0, rank * columns) if split == COLUMNS else ((half * tp + rank) * part, 0)
            start = piece.start + half * part * columns * itemsize
            boxes.append(_Box(row=row, rows=part, column=column, columns=columns, file=file, start=start))
    return (rows, columns * tp) if split == COLUMNS else (rows * tp, *rest), boxes


def _weights_of_ranks(folder: Path) -> dict[tuple[str, int | None], list[tuple[Path, Stored]]]:
    """Of each tensor, the pieces of all tensor-parallel ranks, with layers numbered over the whole model."""
    files = _rank_files(folder)
    tp, pp = 1 + max(rank for rank, _ in files), 1 + max(stage for _, stage in files)
    missing = [f"({t}, {p})" for t in range(tp) for p in range(pp) if (t, p) not in files]
    if missing:
        raise CheckpointError.at(folder, "ranks-missing", tp=tp, pp=pp, ranks=missing)
    models = {place: _models(file) for place, file in files.items()}
    found: dict[tuple[str, int | None], list[tuple[Path, Stored]]] = {}
    done = 0
    for chunk in range(max(map(len, models.values()))):  # virtual stages: all first chunks, then all second ones
        for stage in range(pp):
            count = 0
            for rank in range(tp):
                file, of_rank = files[rank, stage], models[rank, stage]
                for name, local, piece in of_rank[chunk] if chunk < len(of_rank) else ():
                    layer = None if local is None else done + local
                    found.setdefault((name, layer), []).append((file, piece))
                    count = max(count, 0 if local is None else local + 1)
            done += count
    short = {name for (name, layer), pieces in found.items() if len(pieces) != tp}
    if short:
        raise CheckpointError.at(folder, "ranks-without", tp=tp, tensors=sorted(short))
    return found


def _rank_files(folder: Path) -> dict[tuple[int, int], Path]:
    files = {}
    for file in sorted(folder.glob(f"mp_rank_*/{PER_RANK_FILE}")):
        place = re.fullmatch(r"mp_rank_(\d+)(?:_(\d+))?", file.parent.name)
        if place is None:
            raise CheckpointError.at(file.parent, "ranks-folder")
        files[int(place[1]), int(place[2] or 0)] = file
    return files


def _models(file: Path) -> list[list[tuple[str, int | None, Stored]]]:
    """The model chunks of one rank: name, layer counted within the chunk, tensor."""
    try:
        content = read_archive(file)
    except (DamagedCheckpoint, pickle.UnpicklingError) as error:
        raise CheckpointError.at(file, "archive-refused", error=error) from None
    except Exception as error:  # a damaged zip or pickle raises a dozen types
        raise CheckpointError.at(file, "ranks-damaged", error=repr(error)) from None
    version = content.get("checkpoint_version") if isinstance(content, dict) else None
    if not isinstance(version, float | int) or version < 3:
        raise CheckpointError.at(file, "archive-version", version=str(version))
    chunks = ["model"] if "model" in content else [f"model{i}" for i in range(len(content)) if f"model{i}" in content]
    if not chunks:
        raise CheckpointError.at(file, "archive-no-model", names=list(map(str, content)))
    return [
        [_known(name, value, file) for name, value in _flat(content[chunk]) if not name.endswith(LEFT_OUT)]
        for chunk in chunks
    ]


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Stored]]:
    """The tensors of nested dictionaries, names joined by dots."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, Stored):
            yield f"{prefix}{key}", value
        else:
            yield from _flat(value, f"{prefix}{key}.")


def _known(name: str, value: Stored, file: Path) -> tuple[str, int | None, Stored]:
    """The name in the torch_dist format, and the layer."""
    for old, new in OTHER_PREFIXES.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
    layer, found = None, re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name)
    if found:
        layer = int(found[1])
        name = MEGATRON_LAYER + OTHER_NAMES.get(found[2], found[2])
    else:
        front, _, rest = name.partition(".")
        name = f"{front}.{OTHER_NAMES.get(rest, rest)}"
    if name.endswith(("position_embeddings.weight", ".bias")) and name not in BIASES:
        raise CheckpointError.at(file, "archive-foreign", tensor=name)
    return name, layer, value
