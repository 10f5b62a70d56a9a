"""SFT data in Megatron's `.bin`/`.idx`: written from conversations, and read, ours and Pai-Megatron-Patch's alike.

A document is one row: `seq_length` tokens, then `seq_length` labels, which are shifted already (the label at a
position is the token it predicts) and -100 where nothing is learned. The last token of each sample is stored as
-1 - id, so several samples in a row can be told apart; behind them follows padding with labels of -100.
Source of the layout: Pai-Megatron-Patch, toolkits/sft_data_preprocessing/build_idxmap_sft_dataset.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.data.idxmap.writer import SMALL_VOCABULARY, IdxmapWriter, read_lengths
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft import sidecar
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.loss_mask import Tokens
from megatron_patch.data.sft.packing import Packing
from megatron_patch.data.sft.rendering.template import ChatTemplate
from megatron_patch.data.sft.report import NOTHING_TRAINED, DataReport
from megatron_patch.data.sft.selection import Mask, Samples
from megatron_patch.data.sft.sidecar import Sidecar

IGNORED = -100
"""The label of a position where nothing is learned."""
BLOCK = 1 << 24
"""Numbers scanned at once."""


def write_idxmap(
    prefix: Path,
    samples: Samples,
    rows: Packing,
    report: DataReport,
    *,
    tokenizer: ChatTokenizer,
    template: ChatTemplate,
    packed: bool,
    loss: str,
    overlong: str,
) -> Sidecar:
    """Write `PREFIX.bin`, `.idx` and `.sft.json`; a killed run leaves the old ones, or no sidecar that fits.

    Args:
        rows: how the samples share rows; samples of a length are dealt in their order.
    """
    members = rows.deal(samples.lengths, np.arange(len(samples.lengths)))
    sidecar.path_of(prefix).unlink(missing_ok=True)
    with IdxmapWriter(prefix, SMALL_VOCABULARY) as writer:  # int32 for any vocabulary: labels are negative
        for start, end in zip(rows.starts[:-1], rows.starts[1:], strict=True):
            row = [samples.sample(int(number)) for number in members[start:end]]
            writer.add_document(_document(row, rows.capacity, tokenizer.pad_id))
    beside = Sidecar(
        seq_length=rows.capacity,
        packed=packed,
        rows=len(rows),
        samples=report.samples,
        tokens=int(samples.lengths.sum()),
        trained_tokens=report.trained_tokens,
        loss=loss,
        overlong=overlong,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        template_sha256=template.sha256,
        template_source=str(template.source),
        bin_sha256=file_sha256(Path(f"{prefix}.bin")),
        idx_sha256=file_sha256(Path(f"{prefix}.idx")),
        report=report.as_dict(),
    )
    sidecar.write(prefix, beside)
    return beside


def _document(row: list[tuple[Tokens, Tokens, Mask]], seq_length: int, pad_id: int) -> Tokens:
    tokens = np.full(seq_length, pad_id, dtype=np.int32)
    labels = np.full(seq_length, IGNORED, dtype=np.int32)
    at = 0
    for inputs, targets, mask in row:
        end = at + len(inputs)
        tokens[at:end] = inputs
        tokens[end - 1] = -1 - tokens[end - 1]
        labels[at:end] = np.where(mask, targets, IGNORED)
        at = end
    return np.concatenate([tokens, labels])


@dataclass(frozen=True, kw_only=True)
class IdxmapSamples:
    """The samples in an SFT idxmap, taken out of its rows: `Samples`."""

    prefix: str
    numbers: npt.NDArray[np.int32] | npt.NDArray[np.int16]
    """[rows, 2, seq_length], memory-mapped: tokens and labels."""
    rows: npt.NDArray[np.int64]
    """[samples]"""
    starts: npt.NDArray[np.int64]
    """[samples], position in the row."""
    lengths: npt.NDArray[np.int64]
    """[samples], up to the last position with a label: what follows influences nothing."""

    def sample(self, number: int) -> tuple[Tokens, Tokens, Mask]:
        """See `Samples`."""
        start = self.starts[number]
        tokens, labels = self.numbers[self.rows[number], :, start : start + self.lengths[number]].astype(np.int32)
        mask = labels != IGNORED
        return np.where(tokens < 0, -1 - tokens, tokens), np.where(mask, labels, 0), mask

    def origin(self, number: int) -> Message:
        """See `Samples`."""
        place = {"row": int(self.rows[number]), "position": int(self.starts[number])}
        return Message("place-position", prefix=self.prefix, **place)


def open_idxmap(prefix: str | Path, seq_length: int, tokenizer: ChatTokenizer) -> tuple[IdxmapSamples, DataReport]:
    """The samples of an SFT idxmap.

    Raises:
        DataError: torn, built for another sequence length or tokenizer, or with ids that are none.
    """
    try:
        wrong = sidecar.problems(prefix, seq_length=seq_length, tokenizer_sha256=tokenizer.sha256)
        lengths = read_lengths(Path(prefix)) if not wrong else np.zeros(0, np.int32)
    except UserError as error:
        raise DataError.of(error.messages) from None
    except OSError as error:
        raise DataError("idxmap-unreadable", prefix=prefix, error=error) from None
    if not wrong and (lengths != 2 * seq_length).any():
        number = int(np.argmax(lengths != 2 * seq_length))
        wrong = [Message("sft-document-length", prefix=prefix, number=number, wanted=seq_length)]
    if wrong:
        raise DataError.of(wrong)
    numbers = _map(Path(f"{prefix}.bin"), len(lengths), seq_length, tokenizer.vocab_size)
    found = [np.zeros((0, 4), dtype=np.int64)]
    for first, block in _blocks(numbers):
        _check_ids(str(prefix), first, block, tokenizer.vocab_size)
        found.append(_samples_of(first, block))
    rows, starts, kept, targets = np.concatenate(found).T
    report = DataReport(rows=len(rows))
    useless = kept == 0
    for row, start in zip(rows[useless], starts[useless], strict=True):
        why = Message("row-no-label", position=int(start))
        report.lose(NOTHING_TRAINED, str(prefix), 0, int(row) + 1, why)
    used = ~useless
    report.samples, report.tokens, report.trained_tokens = int(used.sum()), int(kept.sum()), int(targets.sum())
    samples = IdxmapSamples(
        prefix=str(prefix), numbers=numbers, rows=rows[used], starts=starts[used], lengths=kept[used]
    )
    return samples, report


def _map(path: Path, rows: int, seq_length: int, vocab_size: int) -> npt.NDArray[np.int32] | npt.NDArray[np.int16]:
    if path.stat().st_size == rows * 2 * seq_length * 4:
        return np.memmap(path, dtype=np.int32, mode="r", shape=(rows, 2, seq_length))
    # Megatron stores small vocabularies as uint16, where Pai's negative numbers wrapped round.
    if vocab_size > np.iinfo(np.int16).max:
        raise DataError("sft-16-bit", file=path, vocabulary=vocab_size)
    return np.memmap(path, dtype=np.int16, mode="r", shape=(rows, 2, seq_length))


def _blocks(numbers: npt.NDArray[np.integer]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    step = max(1, BLOCK // max(1, 2 * numbers.shape[2]))
    for first in range(0, len(numbers), step):
        yield first, numbers[first : first + step].astype(np.int64)


def _check_ids(prefix: str, first: int, block: npt.NDArray[np.int64], vocab_size: int) -> None:
    tokens, labels = block[:, 0], block[:, 1]
    ids = np.where(tokens < 0, -1 - tokens, tokens)
    bad = (ids >= vocab_size) | (labels >= vocab_size) | ((labels < 0) & (labels != IGNORED))
    if bad.any():
        row, at = map(int, np.argwhere(bad)[0])
        found = {"token": int(tokens[row, at]), "label": int(labels[row, at]), "highest": vocab_size - 1}
        raise DataError("sft-wrong-id", prefix=prefix, row=first + row, position=at, **found)


def _samples_of(first: int, block: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[samples, 4]: row, start, length up to the last label, labels; a negative token ends a sample."""
    tokens, labels = block[:, 0], block[:, 1]
    seq_length = tokens.shape[1]
    last = tokens < 0
    last[:, -1] = True  # padding, or a sample whose end is not marked, closes with the row
    ends = np.flatnonzero(last) + 1
    starts = np.concatenate([[0], ends[:-1]])
    trained = (labels != IGNORED).ravel()
    running = np.concatenate([[0], np.cumsum(trained)])
    targets = running[ends] - running[starts]
    positions = np.where(trained, np.arange(1, trained.size + 1), 0)
    latest = np.maximum.reduceat(positions, starts) if len(starts) else positions
    lengths = np.where(targets > 0, latest - starts, 0)
    is_padding = (
        (starts % seq_length != 0) & (targets == 0) & (ends % seq_length == 0) & ~(tokens.ravel()[ends - 1] < 0)
    )
    found = np.stack([first + starts // seq_length, starts % seq_length, lengths, targets], axis=1)
    return np.asarray(found[~is_padding], dtype=np.int64)
