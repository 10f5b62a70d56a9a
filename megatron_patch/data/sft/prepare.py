"""From what a run says about its SFT data to samples: for the trainer, `inspect` and the idxmap builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_patch.data.blend import parse_blend
from megatron_patch.data.columns import told
from megatron_patch.data.sft.cache import CacheSource, Say, open_cache
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer, load_chat_tokenizer
from megatron_patch.data.sft.idxmap import IdxmapSamples, open_idxmap
from megatron_patch.data.sft.loss_mask import LOSSES
from megatron_patch.data.sft.report import DataReport
from megatron_patch.data.sft.selection import MAX_LOST, OVERLONG, Samples, SelectedRows, select
from megatron_patch.data.sft.tokenize import LEAVING_OUT, TURNS, Rules
from megatron_patch.data.sources import find_sources, left_out

KINDS = ("raw", "idxmap")


@dataclass(frozen=True, kw_only=True)
class SFTData:
    """What decides the samples."""

    tokenizer: Path
    """Hugging Face tokenizer folder."""
    seq_length: int
    """Positions of a training row."""
    kind: str = "raw"
    """`raw` (JSON, JSON Lines, Parquet) or `idxmap` (prefixes of .bin and .idx)."""
    cache: Path
    """Folder of tokenized caches; only `raw` uses it."""
    loss: str = "assistant"
    """Which tokens are trained on: see `loss_mask.trained`. An idxmap has that settled in it."""
    overlong: str = "truncate"
    """See `selection.select`."""
    dropped: str = "lose"
    """See `tokenize.Rules`; as `turns`, for `raw` only."""
    turns: str = "together"
    max_lost: float = MAX_LOST
    """Largest share of the rows that may go unused, 0 to 1."""
    workers: int = 0
    """Processes that tokenize; 0 takes every core."""

    def __post_init__(self) -> None:
        for name, valid in (
            ("kind", KINDS),
            ("loss", LOSSES),
            ("overlong", OVERLONG),
            ("dropped", LEAVING_OUT),
            ("turns", TURNS),
        ):
            if (value := getattr(self, name)) not in valid:
                raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}")
        if not 0 <= self.max_lost <= 1:
            raise ValueError(f"max_lost is {self.max_lost}; wanted a share, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Component:
    """One dataset of a run."""

    name: str
    """Its paths, as typed."""
    weight: float | None
    """Share of the training rows, not normalised; None: as many as it has."""
    samples: Samples
    report: DataReport


def open_components(words: Sequence[str], data: SFTData, *, say: Say) -> list[Component]:
    """The datasets that DATASET_PATH or VALID_DATASET_PATH names.

    Every rank may call this; one per machine tokenizes, the others wait.

    Args:
        words: as in Megatron's `--data-path`: paths, or weights and paths in turn.
        say: told what happens.
    Raises:
        DataError, TokenizerError, TemplateError: something cannot be read.
        TooMuchLost: too many rows would not be used.
    """
    tokenizer = load_chat_tokenizer(data.tokenizer)
    components = []
    for part in parse_blend(words):
        # Unweighted prefixes stay apart too: each has its own sidecar. The rows of raw files are mixed.
        groups = [part.paths] if data.kind == "raw" else [(path,) for path in part.paths]
        for paths in groups:
            samples, report = _open(paths, data, tokenizer, say)
            components.append(Component(name=" ".join(paths), weight=part.weight, samples=samples, report=report))
    return components


def _open(
    paths: tuple[str, ...], data: SFTData, tokenizer: ChatTokenizer, say: Say
) -> tuple[SelectedRows | IdxmapSamples, DataReport]:
    if data.kind == "raw":
        for message in (message for path in paths for message in left_out(path)):
            say(message)
        for message in told(find_sources(paths)):
            say(message)
        cache = open_cache(
            CacheSource.of(paths, data.tokenizer, Rules(dropped=data.dropped, turns=data.turns)),
            data.cache,
            workers=data.workers,
            say=say,
        )
        return select(cache, seq_length=data.seq_length, loss=data.loss, overlong=data.overlong, max_lost=data.max_lost)
    samples, report = open_idxmap(paths[0].removesuffix(".bin").removesuffix(".idx"), data.seq_length, tokenizer)
    report.check(data.max_lost)
    return samples, report
