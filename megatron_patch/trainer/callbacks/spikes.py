"""NaN, inf and spikes: which step, of which documents, and what MP_ON_SPIKE does about it (`runs/recovery.py`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from megatron_patch.backend import step_gate
from megatron_patch.backend.saving import folders
from megatron_patch.backend.step_gate import Seen
from megatron_patch.common.messages import Message, localized
from megatron_patch.runs.folder import METRICS
from megatron_patch.runs.recovery import (
    EVENTS,
    SKIPS_IN_A_ROW,
    Event,
    EventKind,
    Status,
    note_event,
    passed_over,
    read_events,
    refuse_rollback,
)
from megatron_patch.runs.stored_chunks import find_structural_damage
from megatron_patch.trainer.callbacks.base import Callback, End, Rank
from megatron_patch.trainer.data import batch_origin
from megatron_patch.trainer.errors import SpikeError
from megatron_patch.trainer.metrics import read_steps
from megatron_patch.trainer.spikes import SpikeRule

NAMED = 4
"""Documents that are named on the screen; events.jsonl has up to LISTED."""
LISTED = 200


def make(rank: Rank) -> Callback | None:
    """On every rank: all decide alike."""
    return Spikes(rank)


class Spikes(Callback):
    """Judges each step before it is taken."""

    priority = 35
    """Before metrics.jsonl is opened, and after it is known that training begins."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._args: Any = None
        self._rule: SpikeRule | None = None
        self._in_a_row = 0

    def arguments(self, args: Any) -> None:
        self._args = args
        if args.on_spike != "off":
            self._rule = SpikeRule(factor=args.spike_factor, window=args.spike_window)
        step_gate.judge_steps(self._judge, agree=self._rule is not None or args.device == "cpu")
        step_gate.pass_over_batches()

    def train_start(self, args: Any, model: list[Any]) -> None:
        """Know what an earlier start knew: the steps before, and the iterations that are passed over."""
        found: list[Any] = [None, None]
        if self._rank.rank == 0:
            skipped = passed_over(read_events(self._rank.output_dir)) if args.iteration else set()
            ahead = sorted(number for number in skipped if args.iteration < number <= args.train_iters)
            known = read_steps(self._rank.output_dir / METRICS, args.iteration, args.spike_window + SKIPS_IN_A_ROW)
            found = [ahead, known if self._rule is not None else []]
        torch.distributed.broadcast_object_list(found, src=0)
        args.iterations_to_skip = [*args.iterations_to_skip, *found[0]]
        if self._rule is not None:
            self._in_a_row = self._rule.take_over(found[1])
        if found[0]:
            self._tell_what_goes_with(found[0], args)

    def _tell_what_goes_with(self, passed: list[int], args: Any) -> None:
        """What Megatron's loop leaves out together with iterations that it passes over."""
        say = self._rank.screen.say
        say(localized("spike-passed-over", first=passed[0], last=passed[-1]))
        if args.save and (unsaved := _multiples(passed, args.save_interval)):
            say(localized("spike-unsaved", unsaved=unsaved))
        if args.do_valid and (untried := _multiples(passed, args.eval_interval)):
            say(localized("spike-untried", untried=untried))
        if missed := _multiples(passed, args.exit_interval):
            say(localized("spike-no-end", missed=missed))

    def end(self, end: End) -> None:
        if self._rank.speaks:
            kinds = [event.kind for event in read_events(self._rank.output_dir)]
            codes = {"skip": "spike-skips", "rollback": "spike-rollbacks"}
            counts = [Message(code, count=kinds.count(kind)) for kind, code in codes.items() if kind in kinds]
            if counts:
                self._rank.screen.say(localized("spike-counts", counts=counts, file=EVENTS))

    def _judge(self, seen: Seen) -> str | None:
        if self._rule is None:
            bad = not math.isfinite(seen.norm) or (seen.loss is not None and not math.isfinite(seen.loss))
            why = Message("spike-any") if bad else None
        else:
            why = self._rule.judge(seen.loss, seen.norm)
        if why is None:
            self._in_a_row = 0
            if self._rule is not None:
                self._rule.add(seen.loss or 0.0, seen.norm)
            return None
        return str(self._act(seen, Message("spike-at", step=seen.iteration, why=why)))

    def _act(self, seen: Seen, what: Message) -> Message:
        documents = self._documents(seen)
        named = _named(documents)
        if self._args.on_spike == "skip":
            self._in_a_row += 1
            if self._in_a_row < SKIPS_IN_A_ROW:
                message = Message("spike-skipped", what=what, documents=named)
                self._note("skip", seen.iteration, message, documents)
                self._rank.screen.say(message.localized())
                return what
            what = Message("spike-again", what=what, steps=SKIPS_IN_A_ROW - 1)
        from megatron_patch.backend.saving.asynchronous import wait_for_last_save

        wait_for_last_save()
        if self._args.on_spike == "rollback":
            self._roll_back(seen.iteration, what, documents)
        message = Message("spike-ends", what=what, step=seen.iteration - 1, documents=named)
        self._note("spike", seen.iteration, message, documents)
        raise SpikeError(message, Status.NOT_AGAIN if self._args.on_spike == "off" else Status.SPIKE)

    def _roll_back(self, iteration: int, what: Message, documents: list[batch_origin.Place]) -> None:
        """End this start for another, unless it would not help."""
        decided: list[Any] = [None, None]
        if self._rank.rank == 0:
            to = _newest_before(Path(self._args.save or ""), iteration) if self._args.save else None
            events = read_events(self._rank.output_dir)
            decided = [to, refuse_rollback(events, iteration=iteration, to=to, last=self._args.train_iters)]
        torch.distributed.broadcast_object_list(decided, src=0)
        to, refused = decided
        if refused is not None:
            message = Message("spike-no-rollback", what=what, why=refused, documents=_named(documents))
            self._note("spike", iteration, message, documents)
            raise SpikeError(message, Status.SPIKE)
        message = Message("spike-rollback", what=what, to=to, documents=_named(documents))
        self._note("rollback", iteration, message, documents, to=to)
        raise SpikeError(message, Status.ROLLED_BACK)

    def _note(
        self,
        kind: EventKind,
        iteration: int,
        message: Message,
        documents: list[batch_origin.Place],
        to: int | None = None,
    ) -> None:
        if self._rank.rank == 0:
            details = tuple(map(str, documents[:LISTED]))
            note_event(self._rank.output_dir, Event.of(kind, message, iteration=iteration, to=to, details=details))

    def _documents(self, seen: Seen) -> list[batch_origin.Place]:
        """Of the batch: those of micro batches that are NaN or inf, else all, the highest loss first."""
        from megatron.core import mpu

        mine: list[tuple[float, list[batch_origin.Place]]] = []
        if seen.micro_losses and mpu.get_context_parallel_rank() == 0:
            for number, loss in enumerate(seen.micro_losses):
                rows = batch_origin.rows_of_micro_batch(self._args, number, mpu.get_data_parallel_rank())
                mine.append((loss if math.isfinite(loss) else math.inf, batch_origin.places(rows)))
        everybodys: list[Any] = [None] * self._rank.world_size
        torch.distributed.all_gather_object(everybodys, mine)
        found = sorted((pair for of_rank in everybodys for pair in of_rank), key=lambda pair: -pair[0])
        worst = [pair for pair in found if pair[0] == math.inf] or found
        return list(dict.fromkeys(place for _, places in worst for place in places))


def _multiples(iterations: list[int], interval: int | None) -> list[int]:
    return [one for one in iterations if interval and one % interval == 0]


def _named(documents: list[batch_origin.Place]) -> Message | str:
    """The first ones, as a sentence ends with them."""
    if not documents:
        return ""
    if len(documents) <= NAMED:
        return Message("spike-documents", documents=documents)
    return Message("spike-documents-more", documents=documents[:NAMED], more=len(documents) - NAMED)


def _newest_before(checkpoints: Path, iteration: int) -> int | None:
    """The newest whole checkpoint of an earlier iteration."""
    found = folders.numbered(checkpoints)
    sound = [number for number, path in found.items() if number < iteration and not find_structural_damage(path)]
    return max(sound, default=None)
