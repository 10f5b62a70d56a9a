"""How the model is sharded over the ranks: arithmetic only."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from megatron_patch.common.messages import Message
from megatron_patch.models import ModelConfig
from megatron_patch.models.megatron import tensor_parallel_problem


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Who computes what. Ranks are numbered as Megatron numbers them: TP fastest, then CP, DP, PP."""

    nodes: int
    """Machines."""
    processes: int
    """Processes of each machine."""
    tp: int
    pp: int
    chunks: int
    """Model chunks of each pipeline rank."""
    cp: int
    dp: int
    sequence_parallel: bool
    stage_layers: tuple[int, ...]
    """Transformer layers of each pipeline rank."""
    ends_count: bool
    """Embedding and loss each count as a layer, because the layers alone do not divide."""

    @property
    def world_size(self) -> int:
        """Processes of the whole run."""
        return self.nodes * self.processes

    def describe_groups(self) -> list[Message]:
        """Which ranks do what, one line for each dimension that is split."""
        inner = self.tp * self.cp
        lines = []
        if self.tp > 1:
            lines.append(Message("group-tp", size=self.tp, ranks=_span(self.tp, 1)))
        if self.cp > 1:
            lines.append(Message("group-cp", size=self.cp, ranks=_span(self.cp, self.tp)))
        if self.dp > 1:
            lines.append(Message("group-dp", size=self.dp, ranks=_span(self.dp, inner)))
        if self.pp > 1:
            stages = {"ranks": _span(self.pp, inner * self.dp), "layers": ", ".join(map(str, self.stage_layers))}
            lines.append(Message("group-pp", size=self.pp, **stages))
        if self.chunks > 1:
            sizes = self.chunk_layers()
            each = sizes[:1] if len(set(sizes)) == 1 else sizes
            lines.append(Message("group-chunks", chunks=self.chunks, each=", ".join(map(str, each))))
        return lines

    def chunk_layers(self) -> tuple[int, ...]:
        """Layers of every chunk in the model's order: first the first chunk of each pipeline rank, then the second."""
        if self.ends_count:
            each = (sum(self.stage_layers) + 2) // (self.pp * self.chunks)
            return (each - 1, *(each,) * (self.pp * self.chunks - 2), each - 1)
        return deal_layers(self.stage_layers, self.chunks)

    def layers_of(self, stage: int) -> list[int]:
        """Numbers of the layers that a pipeline rank holds, in all of its chunks."""
        ends = [0, *itertools.accumulate(self.chunk_layers())]
        chunks = range(stage, self.pp * self.chunks, self.pp)
        return [number for chunk in chunks for number in range(ends[chunk], ends[chunk + 1])]


def _span(count: int, step: int) -> str:
    """The first group of so many ranks: `0, 8, 16, ..., 120`."""
    ranks = [str(index * step) for index in range(min(count, 8))]
    return ", ".join(ranks if count <= 8 else [*ranks[:3], "...", str((count - 1) * step)])


def split_layers(num_layers: int, pp: int, chunks: int) -> tuple[tuple[int, ...], bool] | None:
    """Layers of each pipeline rank, and whether embedding and loss had to count as layers; None if it cannot be cut.

    megatron-core 0.19.2 wants equal chunks; `--account-for-embedding-in-pipeline-split` and its twin for the loss take
    one layer off the first and the last chunk. Source: `get_num_layers_to_build` in transformer_block.py.
    """
    if num_layers % (pp * chunks) == 0:
        return (num_layers // pp,) * pp, False
    if pp > 1 and (num_layers + 2) % (pp * chunks) == 0 and (num_layers + 2) // (pp * chunks) > 1:
        each = (num_layers + 2) // pp
        return (each - 1, *(each,) * (pp - 2), each - 1), True
    return None


def cut_layers(
    model: ModelConfig, vocab_rows: int, seq_len: int, *, pp: int, chunks: int, balance: bool
) -> tuple[tuple[int, ...], bool] | None:
    """As split_layers; where the layers alone divide, balanced if that is asked for and leaves each chunk a layer."""
    split = split_layers(model.num_layers, pp, chunks)
    if split is None or split[1] or pp == 1 or not balance:
        return split
    balanced = balanced_layers(model, vocab_rows, seq_len, pp)
    return (balanced, False) if min(balanced) >= chunks else split


def balanced_layers(model: ModelConfig, vocab_rows: int, seq_len: int, pp: int) -> tuple[int, ...]:
    """Layers of each pipeline rank so that all take about as long, the last with the LM head.

    Only the first and the last stage may differ from the others (`--decoder-first-pipeline-num-layers` and its twin).
    The head counts as many layers as it has their floating-point operations; attention's count 1.6 times, which is
    how much slower they run (docs/performance.md).
    """
    attention = 1.6 * 2 * seq_len * model.head_dim * model.num_attention_heads
    head = 2 * model.hidden_size * vocab_rows / (2 * model.parameters_per_layer() + attention)
    middle = max(1, pp - 2)
    candidates = [(model.num_layers // pp,) * pp]
    most = candidates[0][0] + int(head) + 1  # of a stage that is not slower than the last of the even split
    for last in range(1, candidates[0][0]):
        rest = model.num_layers - last
        for first in range(max(1, rest - middle * most), min(rest, most) + 1):
            each, left = divmod(model.num_layers - first - last, middle)
            if left == 0 and (each > 0) == (pp > 2):
                candidates.append((first, *(each,) * (pp - 2), last))

    def cost(stages: tuple[int, ...]) -> tuple[float, float]:
        times = [*stages[:-1], stages[-1] + head]
        return round(max(times), 1), sum(time * time for time in times)

    best, even = min(candidates, key=cost), candidates[0]
    return best if cost(best)[0] < 0.99 * cost(even)[0] else even


def deal_layers(stage_layers: tuple[int, ...], chunks: int) -> tuple[int, ...]:
    """Layers of every chunk in the model's order, where each rank's layers are dealt over its chunks."""
    return tuple(layers // chunks + (chunk < layers % chunks) for chunk in range(chunks) for layers in stage_layers)


def valid_tensor_parallel(model: ModelConfig) -> list[int]:
    """Every TP that the model allows."""
    return [tp for tp in divisors(model.num_attention_heads) if tensor_parallel_problem(model, tp) is None]


def valid_pipeline_parallel(model: ModelConfig, chunks: int = 1) -> list[int]:
    """Every PP that the model allows with this many chunks per rank."""
    sizes = range(1 if chunks == 1 else 2, model.num_layers + 1)
    return [pp for pp in sizes if split_layers(model.num_layers, pp, chunks) is not None]


def chunks_of(num_layers: int, pp: int, chunk_layers: int) -> int | None:
    """Chunks of a pipeline rank if one has so many layers (MP_VP); None if they do not divide a stage.

    As `--num-layers-per-virtual-pipeline-stage` of megatron-core 0.19.2: where embedding and loss count as layers, they
    count here too. Stages that are balanced later keep this number of chunks, and their layers are dealt over them.
    """
    for counted, ends in ((num_layers, False), (num_layers + 2, True)):
        stage, left = divmod(counted, pp)
        chunks, rest = divmod(stage, chunk_layers)
        if not left and not rest and chunks:
            split = split_layers(num_layers, pp, chunks)
            if split is not None and split[1] == ends:
                return chunks
    return None


def valid_chunk_layers(num_layers: int, pp: int) -> list[int]:
    """Every MP_VP."""
    return [layers for layers in range(1, num_layers + 3) if chunks_of(num_layers, pp, layers) is not None]


def valid_chunks(num_layers: int, pp: int) -> list[int]:
    """Every MP_VP_CHUNKS."""
    return [chunks for chunks in range(1, num_layers + 1) if split_layers(num_layers, pp, chunks) is not None]


def stage_words(num_layers: int, pp: int) -> Message:
    """How many layers a stage has, for messages: `16 layers`, or `8 layers (embedding and loss count)`."""
    split = split_layers(num_layers, pp, 1)
    assert split is not None
    if split[1]:
        return Message("stage-with-ends", layers=(num_layers + 2) // pp)
    return Message("stage", layers=num_layers // pp)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [candidate for candidate in range(1, math.isqrt(number) + 1) if number % candidate == 0]
    return sorted({*small, *(number // candidate for candidate in small)})
