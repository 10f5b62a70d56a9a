"""Where the rows of a batch come from: documents and files, by the place that Megatron's sampler gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from megatron_patch.common.messages import Message

Place = Message | str
"""In words, or `FILE, line N`."""
MOST = 8
"""Documents of one row that are named."""

_training: list[Any] = []


def keep(dataset: Any) -> None:
    """Remember the training set of this rank; None where it reads none."""
    if dataset is not None:
        _training[:] = [dataset]


def rows_of_micro_batch(args: Any, number: int, data_parallel_rank: int) -> range:
    """Items of the training set in one micro batch of the step that is being done.

    Args:
        args: Megatron's.
        number: of the micro batch in this rank's share, from 0.
    """
    across = args.micro_batch_size * args.data_parallel_size
    first = args.consumed_train_samples + number * across + data_parallel_rank * args.micro_batch_size
    return range(first, first + args.micro_batch_size)


def places(rows: Sequence[int]) -> list[Place]:
    """Where rows come from, for people; nothing on a rank that reads no data."""
    return [place for row in rows if _training for place in _places(_training[0], row)]


def _places(dataset: Any, row: int) -> Iterator[Place]:
    if hasattr(dataset, "dataset_index"):  # Megatron's blend
        part = dataset.datasets[int(dataset.dataset_index[row])]
        yield from _places(part, int(dataset.dataset_sample_index[row]))
    elif hasattr(dataset, "which"):  # BlendedRows
        yield from _places(dataset.parts[int(dataset.which[row])], int(dataset.row[row]))
    elif hasattr(dataset, "members"):  # RowDataset
        yield from _shortened([str(dataset.samples.origin(member)) for member in dataset.members(row)])
    elif hasattr(dataset, "document_index"):  # GPTDataset
        yield from _shortened([_document(number, dataset) for number in _documents(dataset, row)])


def _document(number: int, dataset: Any) -> Message:
    return Message("batch-document", number=number, path=dataset.dataset_path)


def _documents(dataset: Any, row: int) -> list[int]:
    sample = dataset.shuffle_index[row]
    first, last = dataset.sample_index[sample][0], dataset.sample_index[sample + 1][0]
    return [int(number) for number in dataset.document_index[first : last + 1]]


def _shortened(names: Iterable[Place]) -> list[Place]:
    names = list(dict.fromkeys(names))
    return names if len(names) <= MOST else [*names[: MOST - 1], Message("batch-more", count=len(names) - MOST + 1)]
