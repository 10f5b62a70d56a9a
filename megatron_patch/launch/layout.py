"""How the model is cut over the ranks: arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

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
    vp: int
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

    def describe_groups(self) -> list[str]:
        """Which ranks do what, one line for each dimension that is cut."""
        inner = self.tp * self.cp
        lines = []
        if self.tp > 1:
            lines.append(f"TP {self.tp}: ranks {_span(0, self.tp, 1)} share each layer, and so on")
        if self.cp > 1:
            lines.append(f"CP {self.cp}: ranks {_span(0, self.cp, self.tp)} share each sequence, and so on")
        if self.dp > 1:
            lines.append(f"DP {self.dp}: ranks {_span(0, self.dp, inner)} see different sequences, and so on")
        if self.pp > 1:
            chunks = f", in {self.vp} chunks each" if self.vp > 1 else ""
            lines.append(
                f"PP {self.pp}: stages start at ranks {_span(0, self.pp, inner * self.dp)}; "
                f"layers {', '.join(map(str, self.stage_layers))}{chunks}"
            )
        return lines


def _span(start: int, count: int, step: int) -> str:
    ranks = [str(start + index * step) for index in range(count)]
    return ", ".join(ranks if count <= 8 else [*ranks[:3], "...", ranks[-1]])


def split_layers(num_layers: int, pp: int, vp: int) -> tuple[tuple[int, ...], bool] | None:
    """Layers of each pipeline rank, and whether embedding and loss had to count as layers; None if it cannot be cut.

    megatron-core 0.19.2 wants equal chunks; `--account-for-embedding-in-pipeline-split` and its twin for the loss take
    one layer off the first and the last chunk. Source: `get_num_layers_to_build` in transformer_block.py.
    """
    if num_layers % (pp * vp) == 0:
        return (num_layers // pp,) * pp, False
    if pp > 1 and (num_layers + 2) % (pp * vp) == 0 and (num_layers + 2) // (pp * vp) > 1:
        each = (num_layers + 2) // pp
        return (each - 1, *(each,) * (pp - 2), each - 1), True
    return None


def cut_layers(
    model: ModelConfig, vocab_rows: int, seq_len: int, *, pp: int, vp: int, balance: bool
) -> tuple[tuple[int, ...], bool] | None:
    """As split_layers; where the layers alone divide, balanced if that is asked for and leaves each chunk a layer."""
    split = split_layers(model.num_layers, pp, vp)
    if split is None or split[1] or pp == 1 or not balance:
        return split
    balanced = balanced_layers(model, vocab_rows, seq_len, pp)
    return (balanced, False) if min(balanced) >= vp else split


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
    for last in range(1, candidates[0][0]):
        for first in range(1, model.num_layers - last + 1):
            each, left = divmod(model.num_layers - first - last, middle)
            if left == 0 and (each > 0) == (pp > 2):
                candidates.append((first, *(each,) * (pp - 2), last))

    def cost(stages: tuple[int, ...]) -> tuple[float, float]:
        times = [*stages[:-1], stages[-1] + head]
        return round(max(times), 1), sum(time * time for time in times)

    best, even = min(candidates, key=cost), candidates[0]
    return best if cost(best)[0] < 0.99 * cost(even)[0] else even


def chunk_layers(stage_layers: tuple[int, ...], vp: int) -> tuple[int, ...]:
    """Layers of every chunk in the model's order: first the first chunk of each pipeline rank, then the second."""
    return tuple(layers // vp + (chunk < layers % vp) for chunk in range(vp) for layers in stage_layers)


def valid_tensor_parallel(model: ModelConfig) -> list[int]:
    """Every TP that the model allows."""
    return [tp for tp in range(1, model.num_attention_heads + 1) if tensor_parallel_problem(model, tp) is None]


def valid_pipeline_parallel(model: ModelConfig, vp: int) -> list[int]:
    """Every PP that the model allows with this many chunks per rank."""
    sizes = range(1 if vp == 1 else 2, model.num_layers + 1)
    return [pp for pp in sizes if split_layers(model.num_layers, pp, vp) is not None]


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
