"""Megatron's old format, `mp_rank_XX_YYY/model_optim_rng.pt`: a state dictionary per tensor and pipeline rank.

For users of other tools that still read it. It fits one TP and PP only, a rank's tensors are in memory while its
file is written, and it has Transformer Engine's names: Megatron's local layer spec would load it without its norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from megatron_patch.checkpoint.check_megatron import uneven_stages
from megatron_patch.checkpoint.convert import Conversion, same_when_tied
from megatron_patch.checkpoint.hf_folder import HFFolder, copy_companions
from megatron_patch.checkpoint.hf_writer import Progress
from megatron_patch.checkpoint.locate import RELEASE, TRACKER
from megatron_patch.checkpoint.sources import BlockMaker, open_source
from megatron_patch.checkpoint.store import HashingFile, staged
from megatron_patch.checkpoint.weights import MEGATRON_LAYER, Tensor

COLUMN_PARALLEL = ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight")
"""Split by columns over TP; other matrices by rows, fc1 in each of its halves; norms are on every rank."""
FILE = "model_optim_rng.pt"


def to_per_rank(folder: HFFolder, target: Path, conversion: Conversion, tp: int, pp: int, progress: Progress) -> None:
    """Write `target` as a checkpoint folder of the old format.

    Raises:
        CheckpointError: a value is NaN or infinite, or a file ends too soon.
    """
    maker = BlockMaker(open_source(folder), conversion.dtype, folder.path)
    same_when_tied(folder)
    facts = {"format": "torch", "precision": conversion.precision, "tensor_parallel": tp, "pipeline_parallel": pp}
    with staged(target, facts) as stage:
        for pipeline in range(pp):
            for rank in range(tp):
                name = f"mp_rank_{rank:02d}" + (f"_{pipeline:03d}" if pp > 1 else "")
                place = stage.path / RELEASE / name
                place.mkdir(parents=True)
                model = dict(_rank_tensors(conversion, maker, tp, rank, pp, pipeline, progress))
                with HashingFile(place / FILE, stage) as file:
                    torch.save({"model": model, "checkpoint_version": 3.0, "iteration": 0}, file)
        copy_companions(folder.path, stage.path, folder.config, conversion.precision)
        stage.write_text(TRACKER, RELEASE)


def stage_layers(num_layers: int, pp: int, stage: int) -> range:
    """The layers of one pipeline stage; the last has fewer where they do not divide."""
    most = -(-num_layers // pp)
    last = uneven_stages(num_layers, pp).get("num_layers_in_last_pipeline_stage", most)
    return range(stage * most, stage * most + (last if stage == pp - 1 else most))


def _rank_tensors(
    conversion: Conversion, maker: BlockMaker, tp: int, rank: int, pp: int, stage: int, progress: Progress
) -> Iterator[tuple[str, torch.Tensor]]:
    layers, last = stage_layers(conversion.shape.num_layers, pp, stage), stage == pp - 1
    for tensor in conversion.tensors():
        names = []
        if tensor.layer is not None and tensor.layer in layers:
            names = [tensor.name.replace(MEGATRON_LAYER, f"{MEGATRON_LAYER}{tensor.layer - layers[0]}.")]
        elif tensor.name.startswith("embedding."):
            tied_twin = conversion.shape.tie_embeddings and last and stage > 0
            names = [tensor.name] * (stage == 0) + ["output_layer.weight"] * tied_twin
        elif tensor.layer is None and last:
            names = [tensor.name]
        for name in names:
            part = _slice(tensor, maker, tp, rank)
            progress(part.nbytes)
            yield name, part


def _slice(tensor: Tensor, maker: BlockMaker, tp: int, rank: int) -> torch.Tensor:
    if not tensor.row_shape:
        return maker.make([(tensor, 0)], tensor.rows, tensor.shape).clone()
    if tensor.name.endswith(COLUMN_PARALLEL):
        whole = maker.make([(tensor, 0)], tensor.rows, tensor.shape)
        return whole.chunk(tp, dim=1)[rank].clone()
    halves = 2 if tensor.name.endswith("mlp.linear_fc1.weight") else 1
    rows = tensor.rows // halves // tp
    parts = [
        maker.make([(tensor, half * tensor.rows // halves + rank * rows)], rows, (rows, *tensor.row_shape)).clone()
        for half in range(halves)
    ]
    return torch.cat(parts)
