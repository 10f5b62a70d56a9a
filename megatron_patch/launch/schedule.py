"""How long a run is, how large its batches are, and its learning rate: arithmetic only.

Megatron's scheduler counts samples, not iterations; so does everything here that has to give the same numbers.
Source: optimizer_param_scheduler.py and num_microbatches_calculator.py of megatron-core 0.19.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from megatron_patch.common.messages import Message
from megatron_patch.common.values import Kind, ValueProblem, whole

DECAY_STYLES = ("cosine", "linear", "constant", "inverse-square-root", "WSD")
WSD_STYLES = ("exponential", "linear", "cosine", "minus_sqrt")
SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
"""Of thousands, as Megatron reads them."""


@dataclass(frozen=True, kw_only=True)
class BatchStage:
    """From `start` samples on an iteration has `batch` of them."""

    start: int
    batch: int


@dataclass(frozen=True)
class Batches:
    """The batch of each iteration: one stage, or several that follow each other."""

    stages: tuple[BatchStage, ...]

    def samples(self, iterations: int) -> int:
        """Of the first so many iterations."""
        found = 0
        for first, last, done, batch in self._spans():
            found = done + (iterations - first) * batch
            if last is None or iterations <= last:
                break
        return found

    def iterations(self, samples: int) -> int:
        """Whole ones, of so many samples."""
        count = 0
        for first, last, done, batch in self._spans():
            count = first + (samples - done) // batch
            if last is None or count < last:
                break
        return count

    def batch_after(self, samples: int) -> int:
        """Of the iteration that follows."""
        return [stage.batch for stage in self.stages if stage.start <= samples][-1]

    def changes(self) -> list[int]:
        """Iterations after which the batch is another."""
        return sorted({last for _, last, _, _ in self._spans() if last})

    def until(self, samples: int) -> tuple[BatchStage, ...]:
        """The stages that the first so many samples have seen."""
        return tuple(stage for stage in self.stages if stage.start < samples)

    def unused(self, samples: int) -> list[int]:
        """Which stages, counted from 0, have no iteration among the first so many samples: those that begin later,
        and those that are over before an iteration begins."""
        spans = enumerate(self._spans())
        return [number for number, (first, last, done, _) in spans if first == last or done >= samples]

    def _spans(self) -> Iterator[tuple[int, int | None, int, int]]:
        """Of each stage: iterations before it and until its end (None: for ever), samples before it, its batch."""
        first = done = 0
        for stage, following in zip(self.stages, [*self.stages[1:], None], strict=True):
            if following is None:
                yield first, None, done, stage.batch
                return
            last = first + max(0, -(-(following.start - done) // stage.batch))
            yield first, last, done, stage.batch
            first, done = last, done + (last - first) * stage.batch


def constant(batch: int) -> Batches:
    """Every iteration has as many samples."""
    return Batches((BatchStage(start=0, batch=batch),))


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The learning rate over the samples; the arithmetic is Megatron's, operation by operation."""

    style: str
    peak: float
    floor: float
    warmup: int
    """Samples; linear from 0."""
    decay: int
    """Samples until the end of the decay, the warm-up included."""
    wsd: int
    """Samples of the decay at the end, under WSD."""
    wsd_style: str

    def after(self, samples: int) -> float:
        """Of the step that follows so many samples."""
        if self.warmup > 0 and samples <= self.warmup:
            return self.peak * float(samples) / float(self.warmup)
        if self.style == "constant":
            return self.peak
        if samples > self.decay:
            return self.floor
        if self.style == "inverse-square-root":
            return max(self.floor, self.peak * math.sqrt(max(self.warmup, 1)) / math.sqrt(max(samples, 1)))
        return self.floor + self._part(samples) * (self.peak - self.floor)

    def _part(self, samples: int) -> float:
        """Of the way from the floor to the peak."""
        if self.style == "WSD":
            start = self.decay - self.wsd
            return 1.0 if samples <= start else _falling(self.wsd_style, (samples - start) / self.wsd)
        return _falling(self.style, (samples - self.warmup) / (self.decay - self.warmup))


def _falling(style: str, done: float) -> float:
    """From 1 to 0 as `done` goes from 0 to 1."""
    if style == "linear":
        return 1.0 - done
    if style == "cosine":
        return 0.5 * (math.cos(math.pi * done) + 1.0)
    if style == "exponential":
        return (2.0 * math.pow(0.5, done)) - 1.0
    return 1.0 - math.sqrt(done)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long the run is; all counts in iterations unless said otherwise."""

    train_iters: int
    warmup_iters: int
    """Linear from 0; inside the decay, which Megatron counts from iteration 0."""
    decay_iters: int
    """End of the decay: the last iteration."""
    wsd_iters: int
    """Of the decay at the end, under WSD; else 0."""
    tokens_per_iteration: int
    """Of the last stage, where the batch grows."""
    micro_batches: int
    """Forward and backward passes of one rank in one iteration; of the last stage."""
    eval_interval: int
    eval_iters: int
    """0 = no validation."""
    save_interval: int
    arithmetic: tuple[Message, ...]
    """How the counts came about, for the plan."""
    batches: Batches
    rate: Rate

    def saves(self, done: int = 0) -> int:
        """Checkpoints that are written after `done` iterations: one in each interval, where the batch grows (which is
        Megatron's doing), and the last."""
        inside = self.train_iters // self.save_interval - done // self.save_interval
        grows = [at for at in self.batches.changes() if done < at < self.train_iters and at % self.save_interval]
        return inside + len(grows) + (self.train_iters % self.save_interval > 0)

    def rate_of(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 1."""
        return self.rate.after(self.batches.samples(iteration - 1))

    @property
    def samples(self) -> int:
        """Of the whole run."""
        return self.batches.samples(self.train_iters)

    @property
    def samples_per_iteration(self) -> int:
        """Of the last stage."""
        return self.batches.stages[-1].batch


def count_iterations(value: int, sft: bool, batches: Batches, seq_len: int) -> tuple[int, Message]:
    """Turn TRAIN_ or WARMUP_TOKENS_OR_ITERS into iterations.

    Returns:
        Iterations, rounded down; and the arithmetic in words.
    """
    if sft:
        return value, Message("count-sft", value=value)
    iterations = batches.iterations(value // seq_len)
    left = value - batches.samples(iterations) * seq_len
    values = {"value": value, "length": seq_len, "iterations": iterations}
    if len(batches.stages) > 1:
        return iterations, Message("count-tokens-stages", **values, left=left)
    values = {**values, "batch": batches.stages[0].batch}
    return iterations, Message("count-tokens-left", **values, left=left) if left else Message("count-tokens", **values)


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """A length or an interval as somebody typed it: passes over the data, exact."""

    number: str
    """Without the word behind it: `0.5`."""
    times: int
    over: int
    """`number` = times / over."""

    def of(self, size: int, batches: Batches) -> int:
        """Iterations, rounded up: no row is left out. Batches run on over the end of an epoch.

        Args:
            size: rows of one epoch.
        """
        samples = -(-self.times * size // self.over)
        found = batches.iterations(samples)
        return found + (batches.samples(found) < samples)

    def tokens_of(self, size: int) -> int:
        """Whole tokens.

        Args:
            size: tokens of one epoch.
        """
        return self.times * size // self.over

    def is_shorter_than(self, other: Epochs) -> bool:
        """Before either is rounded."""
        return self.times * other.over < other.times * self.over

    def every(self, size: int, each: int) -> int:
        """Iterations of an interval, rounded up.

        Args:
            size: rows or tokens of one epoch.
            each: of them in one iteration.
        """
        return -(-self.times * size // (self.over * each))


@dataclass(frozen=True, kw_only=True)
class EpochCount:
    """How long an epoch is, and which lengths and intervals came from it."""

    asked: Mapping[str, str]
    """Epochs, by position or variable: `{"TRAIN_TOKENS_OR_ITERS": "3"}`."""
    size: int
    """Rows under SFT, packed ones under packing; else tokens."""

    def words(self, name: str, iterations: int, arithmetic: Message, *, sft: bool, batches: Batches) -> Message:
        """How the iterations of a position came about; `arithmetic` where nobody typed epochs there."""
        if name not in self.asked:
            return arithmetic
        values = self._values(name)
        if not sft:
            return Message("count-epochs-tokens", **values, arithmetic=arithmetic)
        if len(batches.stages) > 1:
            return Message("count-epochs-stages", **values, iterations=iterations)
        return Message("count-epochs", **values, iterations=iterations, batch=batches.stages[0].batch)

    def tokens_of(self, name: str) -> int:
        """Whole tokens that somebody typed in epochs, under pretraining."""
        epochs = length(1).parse(f"{self.asked[name]}epochs")
        assert isinstance(epochs, Epochs)
        return epochs.tokens_of(self.size)

    def interval_words(self, name: str, iterations: int, *, batch: int, seq_len: int | None) -> list[Message]:
        """How an interval came about; empty where nobody typed epochs there.

        Args:
            seq_len: None under SFT, where rows are counted.
        """
        if name not in self.asked:
            return []
        values = {**self._values(name), "batch": batch, "iterations": iterations}
        if seq_len is None:
            return [Message("count-epochs", **values)]
        return [Message("count-epochs-interval", **values, length=seq_len)]

    def _values(self, name: str) -> dict[str, object]:
        number = self.asked[name]
        return {"epochs": float(number) if "." in number else int(number), "size": self.size}


def length(minimum: int) -> Kind:
    """A whole number, or epochs: `3epochs`, `0.5epochs`."""

    def parse(text: str) -> int | Epochs:
        if "epoch" not in text.lower():
            found: int = whole(minimum).parse(text)
            return found
        parts = re.fullmatch(r"([0-9]{1,6})(?:\.([0-9]{1,6}))?epochs?", text)
        if not parts:
            raise ValueProblem("epochs-form")
        decimals = parts[2] or ""
        times = int(parts[1] + decimals)
        if not times:
            raise ValueProblem("epochs-none")
        return Epochs(number=text.partition("epoch")[0], times=times, over=10 ** len(decimals))

    return Kind(parse=parse, expects=Message("expect-length", minimum=minimum))


def wsd_iterations(style: str, asked: int | None, end: int) -> int:
    """Iterations of the decay at the end: MP_LR_WSD_DECAY_ITERS, else a tenth of all."""
    if style != "WSD":
        return 0
    return max(1, end // 10) if asked is None else asked


def make_rate(
    batches: Batches,
    *,
    peak: float,
    floor: float,
    warmup: int,
    decay: int,
    style: str = "cosine",
    wsd: int | None = None,
    wsd_style: str = "exponential",
) -> Rate:
    """The learning rate of a schedule in iterations.

    Args:
        wsd: MP_LR_WSD_DECAY_ITERS.
    """
    end = batches.samples(decay)
    return Rate(
        style=style,
        peak=peak,
        floor=floor,
        warmup=batches.samples(warmup),
        decay=end,
        wsd=end - batches.samples(decay - wsd_iterations(style, wsd, decay)),
        wsd_style=wsd_style,
    )


def of_values(values: Mapping[str, Any]) -> tuple[Batches, Rate]:
    """Batches and learning rate of the values that a plan.json keeps, of any version.

    Raises:
        KeyError, TypeError: they are not all there.
    """
    sft, seq_len, asked = values["SFT"], values["SEQ_LEN"], values.get("MP_BATCH_SCHEDULE")
    batches = read_stages(asked, sft=sft, seq_len=seq_len) if asked else constant(values["GLOBAL_BATCH_SIZE"])
    train, _ = count_iterations(values["TRAIN_TOKENS_OR_ITERS"], sft, batches, seq_len)
    warmup, _ = count_iterations(values["WARMUP_TOKENS_OR_ITERS"], sft, batches, seq_len)
    return batches, make_rate(
        batches,
        peak=values["LR"],
        floor=values["MIN_LR"],
        warmup=warmup,
        decay=values.get("MP_LR_DECAY_ITERS") or train,
        style=values.get("MP_LR_DECAY_STYLE", "cosine"),
        wsd=values.get("MP_LR_WSD_DECAY_ITERS"),
        wsd_style=values.get("MP_LR_WSD_DECAY_STYLE", "exponential"),
    )


def batch_schedule() -> Kind:
    """`START:BATCH,START:BATCH`; parsed it is the same text with the numbers written out."""

    def parse(text: str) -> str:
        pairs = [_pair(word) for word in text.replace(",", " ").split()]
        if not pairs or pairs[0][0] != 0:
            raise ValueProblem("stages-begin")
        if any(later[0] <= earlier[0] for earlier, later in pairwise(pairs)):
            raise ValueProblem("stages-order")
        return ",".join(f"{start}:{batch}" for start, batch in pairs)

    return Kind(parse=parse, expects=Message("expect-stages"))


def _pair(word: str) -> tuple[int, int]:
    start, colon, batch = word.partition(":")
    try:
        found = _count(start), int(batch)
    except (ValueError, OverflowError):
        colon = ""
    if not colon or not batch.isascii() or not batch.isdigit() or found[1] == 0:
        raise ValueProblem("stage-form", stage=word)
    return found


def _count(word: str) -> int:
    """`0`, `1000`, `1e9`, `1.5B`: whole numbers only."""
    number, times = (word[:-1], SUFFIXES[word[-1:].upper()]) if word[-1:].upper() in SUFFIXES else (word, 1)
    value = float(number) * times
    if not number[:1].isdigit() or not number.isascii() or "_" in number or value != int(value) or value >= 2**53:
        raise ValueError
    return int(value)


def read_stages(schedule: str, *, sft: bool, seq_len: int) -> Batches:
    """A parsed MP_BATCH_SCHEDULE, whose starts are tokens, under SFT iterations: the unit of TRAIN_TOKENS_OR_ITERS.

    Args:
        schedule: `0:64,1000000:128`.
    """
    pairs = [(int(start), int(batch)) for start, _, batch in (word.partition(":") for word in schedule.split(","))]
    stages: list[BatchStage] = []
    for start, batch in pairs:
        done = start // seq_len
        if sft:
            done = Batches(tuple(stages)).samples(start) if stages else 0
        stages.append(BatchStage(start=done, batch=batch))
    return Batches(tuple(stages))
