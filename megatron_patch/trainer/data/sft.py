"""Conversations as training data: the samples of `data/sft`, laid out in rows, as Megatron's loaders take them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import mpu

from megatron_patch.common.messages import Message, localized, named
from megatron_patch.data.blend import parse_blend
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.chat_tokenizer import load_chat_tokenizer
from megatron_patch.data.sft.dataset import RowDataset, ValidationRows, training_rows
from megatron_patch.data.sft.held_out import hold_out
from megatron_patch.data.sft.layout import RowLayout
from megatron_patch.data.sft.prepare import Component, SFTData, open_components
from megatron_patch.data.sft.rendering.template import TemplateError
from megatron_patch.data.sft.report import TooMuchLost
from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError
from megatron_patch.runs.folder import REPORTS
from megatron_patch.trainer.data import batch_origin
from megatron_patch.trainer.data.batch import reads_data
from megatron_patch.trainer.data.content import identities, remember
from megatron_patch.trainer.data.datasets import enough_for_validation
from megatron_patch.trainer.errors import DatasetError

Say = Callable[[str], None]


def sft_provider(args: Any, say: Say) -> Any:
    """Open the conversations and return the dataset provider for `pretrain`.

    Called before the process group exists: tokenizing may take longer than the time that ranks wait for each other.
    Every rank calls this; one per machine tokenizes, the others wait at its lock.

    Args:
        args: Megatron's, with our `--sft-*` flags.
        say: shows a line to the person at the screen.
    Raises:
        DatasetError: something cannot be read, or too much of it would not be used.
    """
    data = SFTData(
        tokenizer=Path(args.tokenizer_model),
        seq_length=args.seq_length,
        kind=args.sft_data,
        cache=Path(args.data_cache_path or args.output_dir / "cache"),
        loss=args.sft_loss,
        overlong=args.sft_overlong,
        max_lost=args.sft_max_lost,
        dropped=args.sft_dropped,
        turns=args.sft_turns,
    )
    loud = say if _first_here() else print
    training = _open("training", args.train_data_path, data, args.output_dir, loud)
    validation: list[Component] = []
    if args.sft_split:
        training, validation = _split(training, args.sft_split, loud)
    elif args.eval_iters:
        validation = _open("validation", args.valid_data_path, data, args.output_dir, loud)
    args.validation_names = [component.name for component in validation]
    layout = RowLayout(
        seq_length=args.seq_length,
        packing=args.sft_packing,
        pad_id=load_chat_tokenizer(data.tokenizer).pad_id,
        context_parallel_size=args.context_parallel_size,
        average=args.sft_average,
    )
    provide = partial(_provide, args, layout, training, validation, say)
    provide.is_distributed = True  # type: ignore[attr-defined]  # Megatron: every rank calls it
    return provide


def _first_here() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _open(split: str, words: list[str], data: SFTData, output_dir: Path, say: Say) -> list[Component]:
    try:
        components = open_components(words, data, say=lambda message: say(message.localized()))
    except (DataError, TokenizerError, TemplateError, TooMuchLost) as error:
        text = error if _first_here() else error.localized().splitlines()[0]  # every rank of the machine finds the same
        raise DatasetError("split-data", split=named(split), problem=text) from error
    for number, component in enumerate(components):
        for line in component.report.lines():
            say(localized("split-says", split=named(split), line=line))
        if os.environ.get("RANK", "0") == "0":
            component.report.write(output_dir / REPORTS / f"{split}_{number}.json")
    return components


def _split(training: list[Component], split: str, say: Say) -> tuple[list[Component], list[Component]]:
    try:
        pairs = [hold_out(component, split) for component in training]
    except DataError as error:
        raise DatasetError("split-data", split=named("validation"), problem=error) from error
    for _, part in pairs:
        line = Message("sft-held-out", samples=len(part.samples.lengths), name=part.name, split=split)
        say(localized("split-says", split=named("validation"), line=line))
    return [part for part, _ in pairs], [part for _, part in pairs]


def _provide(
    args: Any,
    layout: RowLayout,
    training: list[Component],
    validation: list[Component],
    say: Say,
    num_samples: list[int],
    vp_stage: int | None = None,
) -> tuple[Any, Any, None]:
    """Training, validation and no test set, on the ranks that read them."""
    if mpu.get_tensor_model_parallel_rank() or not reads_data(vp_stage, packed=layout.packing):
        return None, None, None
    rows = training_rows(training, layout, num_rows=num_samples[0], seed=args.seed)
    batch_origin.keep(rows)
    if os.environ.get("RANK", "0") == "0" and not vp_stage:
        say(localized("split-says", split=named("training"), line=rows.describe()))
        if isinstance(rows, RowDataset):
            say(localized("split-says", split=named("training"), line=epoch_length(args, rows.rows_per_epoch)))
        _remember(args)
    if args.eval_iters and validation:
        per_evaluation = args.eval_iters * args.eval_global_batch_size
        needed = enough_for_validation(args, num_samples[1]) or 0
        return rows, ValidationRows(validation, layout, per_evaluation=per_evaluation, num_rows=needed), None
    return rows, None, None


def epoch_length(args: Any, rows: int) -> Message:
    """Rows of an epoch in iterations; where the batch grows these are not one number."""
    if args.step_batch_size_schedule:
        return Message("sft-epoch-rows", rows=rows)
    return Message("sft-epoch", iterations=rows / args.global_batch_size)


def _remember(args: Any) -> None:
    words = [args.train_data_path, args.valid_data_path] if args.eval_iters else [args.train_data_path]
    words = [args.train_data_path] if args.sft_split else words
    paths = [path for blend in words if blend for part in parse_blend(blend) for path in part.paths]
    remember(args.output_dir, identities(paths, raw=args.sft_data == "raw"), resumed=bool(args.iteration))
