"""MP_KEEP_BEST keeps the checkpoint of the lowest validation loss; MP_EARLY_STOP_PATIENCE ends without improvement."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

import torch

from megatron_patch.backend.saving import retention
from megatron_patch.common.messages import Message, localized
from megatron_patch.runs.folder import METRICS
from megatron_patch.runs.validations import Validations, replay
from megatron_patch.trainer.callbacks.base import Callback, End, Rank
from megatron_patch.trainer.summary import total_iterations


def make(rank: Rank) -> Callback | None:
    """On every rank: all have to end after the same step."""
    return BestCheckpoint(rank)


class BestCheckpoint(Callback):
    """Follows the validation loss, from metrics.jsonl on where a run goes on."""

    priority: ClassVar[int] = 10
    """After metrics.jsonl is cut to what the checkpoint knows, and written."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._follows = False
        self._saves, self._last = 1, 0
        self.validations = Validations()

    def arguments(self, args: Any) -> None:
        self._follows = args.keep_best or args.early_stop_patience is not None
        self._last = total_iterations(args)
        self._saves = args.save_interval or self._last
        self.validations = Validations(patience=args.early_stop_patience)
        if self._follows:
            retention.PROTECTED.append(self._best)

    def train_start(self, args: Any, model: list[Any]) -> None:
        """All ranks take the state from the one that writes metrics.jsonl."""
        if not self._follows:
            return
        box: list[Any] = [None]
        if self._rank.speaks and args.iteration:
            lines = (self._rank.output_dir / METRICS).read_text(encoding="utf-8").splitlines()
            patience = self.validations.patience
            box = [replay(map(json.loads, lines), patience=patience, saves=self._saves, last=self._last)]
        torch.distributed.broadcast_object_list(box, src=self._rank.world_size - 1)
        self.validations = box[0] or self.validations

    def evaluated(self, iteration: int, split: str, loss: float | None, parts: dict[str, float]) -> None:
        if not self._follows or split != "validation":
            return
        saved = iteration % self._saves == 0 or iteration == self._last
        self.validations.add(iteration, _of_all_ranks(loss), saved=saved)
        if self._rank.rank == 0:
            self.validations.write(self._rank.output_dir)

    def stops(self) -> Message | None:
        if not self.validations.stops:
            return None
        return Message("early-stop", count=self.validations.without, loss=self.validations.lowest)

    def end(self, end: End) -> None:
        best = self.validations.best_iteration
        if self._follows and best is not None:
            self._rank.screen.say(localized("best-checkpoint", step=best, loss=self.validations.best_loss))

    def _best(self) -> set[int]:
        best = self.validations.best_iteration
        return set() if best is None else {best}


def _of_all_ranks(loss: float | None) -> float:
    """The loss that ranks with the last pipeline stage know; NaN as infinity, which is not an improvement either."""
    mine = -math.inf if loss is None else math.inf if math.isnan(loss) else loss
    found = torch.tensor([mine], dtype=torch.float64, device="cuda")
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return float(found.item())
