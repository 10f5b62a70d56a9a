"""The fastest layouts that fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from megatron_patch.planner.errors import NothingFits
from megatron_patch.planner.layouts import Choice, Prediction, TrainingJob, candidates, predict


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search saw."""

    best: list[Prediction]
    """Fastest first; all of them fit."""
    tried: int
    """Layouts whose time was predicted."""


def search(job: TrainingJob, choice: Choice, most: int = 5) -> SearchResult:
    """The fastest layouts by predicted step time.

    Where nothing fits, the optimizer may move to RAM (position 18), of which nothing is known here: it is tried last.

    Raises:
        NothingFits: with the layout that needs the least memory, or what does not divide.
    """
    in_ram = replace(choice, offload=("auto",), chunks=(1,) if 1 in choice.chunks else choice.chunks)  # as the driver
    for tried in (choice, in_ram):
        predictions = [predict(job, one) for one in candidates(job, tried)]
        if not predictions:
            raise NothingFits("planner-no-division", gpus=job.gpus, batch=job.global_batch, length=job.seq_len)
        fitting = sorted((one for one in predictions if one.fits), key=_order)
        if fitting:
            return SearchResult(best=_different(fitting, most), tried=len(predictions))
    least = min(predictions, key=lambda one: one.fit.memory.total - one.limit)
    layout = least.candidate.layout
    degrees = {"tp": layout.tp, "pp": layout.pp, "cp": layout.cp, "ac": least.candidate.ac}
    sizes = {"needed": least.fit.memory.total / 1e9, "limit": least.limit / 1e9}
    raise NothingFits("planner-no-fit", **degrees, **sizes, gpu=job.kind.name.upper())


def _order(prediction: Prediction) -> tuple[float, int]:
    return prediction.time.total, prediction.fit.memory.total


def _different(fitting: list[Prediction], most: int) -> list[Prediction]:
    """The best of each TP, PP and CP: five chunk counts of one layout would say nothing."""
    kept: dict[tuple[int, int, int], Prediction] = {}
    for one in fitting:
        layout = one.candidate.layout
        kept.setdefault((layout.tp, layout.pp, layout.cp), one)
        if len(kept) == most:
            break
    return list(kept.values())
