"""SFT idxmaps: what is written is what is read, Pai's files too; the wrong ones are refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_patch.data.idxmap.writer import SMALL_VOCABULARY, IdxmapWriter
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft import sidecar
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.idxmap import open_idxmap, write_idxmap
from megatron_patch.data.sft.layout import RowLayout
from megatron_patch.data.sft.prepare import Component, SFTData, open_components
from megatron_patch.data.sft.rendering.template import ChatTemplate

LENGTH = 700


@pytest.fixture(scope="module")
def component(
    tmp_path_factory: pytest.TempPathFactory,
    conversations: list[Any],
    write_json_lines: Callable[..., Path],
    tokenizer_folder: Path,
) -> Component:
    folder = tmp_path_factory.mktemp("raw")
    path = write_json_lines(folder / "a.jsonl", [{"messages": messages} for messages in conversations])
    data = SFTData(tokenizer=tokenizer_folder, seq_length=LENGTH, cache=folder / "cache", workers=1, max_lost=0.5)
    return open_components([str(path)], data, say=print)[0]


@pytest.fixture(scope="module", params=[False, True], ids=["one a row", "packed"])
def built(
    request: pytest.FixtureRequest,
    component: Component,
    tokenizer: ChatTokenizer,
    template: ChatTemplate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    prefix = tmp_path_factory.mktemp("built") / "sft_text_document"
    rows = RowLayout(seq_length=LENGTH, packing=request.param, pad_id=tokenizer.pad_id).rows(component.samples.lengths)
    write_idxmap(
        prefix,
        component.samples,
        rows,
        component.report,
        tokenizer=tokenizer,
        template=template,
        packed=request.param,
        loss="assistant",
        overlong="truncate",
    )
    return prefix


def trainable(sample: tuple[Any, Any, Any]) -> tuple[tuple[int, ...], ...]:
    """Inputs up to the last trained position, and the labels that count."""
    inputs, labels, mask = sample
    end = int(np.flatnonzero(mask)[-1]) + 1
    return tuple(inputs[:end].tolist()), tuple(np.where(mask, labels, -1)[:end].tolist())


def test_reading_gives_back_what_raw_data_gives(built: Path, component: Component, tokenizer: ChatTokenizer) -> None:
    samples, report = open_idxmap(built, LENGTH, tokenizer)
    ours = sorted(trainable(samples.sample(i)) for i in range(len(samples.lengths)))
    raw = sorted(trainable(component.samples.sample(i)) for i in range(len(component.samples.lengths)))
    assert ours == raw
    assert report.samples == component.report.samples and report.trained_tokens == component.report.trained_tokens
    beside = sidecar.read(built)
    assert beside is not None and beside.samples == report.samples and beside.trained_tokens == report.trained_tokens
    assert beside.rows == len(samples.numbers) and (beside.rows < beside.samples) == beside.packed
    assert str(samples.origin(0)).startswith(f"{built}: row ")


def test_megatron_reads_the_files(built: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    dataset = IndexedDataset(str(built))
    assert all(len(dataset[i]) == 2 * LENGTH for i in range(len(dataset)))
    assert dataset[0].dtype == np.int32


def test_another_sequence_length_or_tokenizer_is_refused(built: Path, tokenizer: ChatTokenizer) -> None:
    with pytest.raises(DataError, match=f"was built for sequence length {LENGTH}, not 512"):
        open_idxmap(built, 512, tokenizer)
    wrong = sidecar.problems(built, seq_length=512, tokenizer_sha256="0" * 64)
    assert [message.code for message in wrong] == ["sft-other-length", "sft-other-tokenizer"]
    assert sidecar.problems(built, seq_length=LENGTH, tokenizer_sha256=tokenizer.sha256) == []


def test_a_damaged_sidecar_is_no_absent_one(built: Path, tokenizer: ChatTokenizer) -> None:
    path = sidecar.path_of(built)
    good = path.read_text()
    for bad in (good[:-30], "{}", json.dumps({**json.loads(good), "more": 1}), "[]"):
        path.write_text(bad)
        with pytest.raises(DataError, match="is damaged"):
            open_idxmap(built, LENGTH, tokenizer)
    path.write_text(good)


# ---------------------------------------------------------------- Pai-Megatron-Patch's files


def pai_document(samples: list[tuple[list[int], int]], size: int, pad: int) -> list[int]:
    """As its builder lays out samples of (tokens, prompt length): see build_idxmap_sft_dataset.py there."""
    tokens: list[int] = []
    labels: list[int] = []
    for ids, prompt in samples:
        tokens += [*ids[:-1], -1 - ids[-1]]
        labels += [-100] * (prompt - 1) + ids[prompt:] + [-100]
    return tokens + [pad] * (size - len(tokens)) + labels + [-100] * (size - len(labels))


SAMPLES = [([5, 6, 7, 8, 9], 3), ([10, 11, 12], 1), ([0, 13, 14, 15, 16, 17], 4), ([18, 19], 1)]
EXPECTED = [
    ([5, 6, 7, 8], [0, 0, 8, 9]),
    ([10, 11], [11, 12]),
    ([0, 13, 14, 15, 16], [0, 0, 0, 16, 17]),
    ([18], [19]),
]


def write_pai(prefix: Path, documents: list[list[int]]) -> None:
    with IdxmapWriter(prefix, SMALL_VOCABULARY) as writer:
        for document in documents:
            writer.add_document(document)


def samples_of(prefix: Path, size: int, tokenizer: ChatTokenizer) -> list[tuple[list[int], list[int]]]:
    samples, _ = open_idxmap(prefix, size, tokenizer)
    found = [samples.sample(i) for i in range(len(samples.lengths))]
    return [(inputs.tolist(), labels.tolist()) for inputs, labels, _ in found]


def test_pais_packed_rows_come_apart(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    documents = [pai_document(SAMPLES[:3], 16, 1), pai_document(SAMPLES[3:], 16, 1)]
    write_pai(tmp_path / "pai", documents)
    assert samples_of(tmp_path / "pai", 16, tokenizer) == EXPECTED


def test_pais_full_rows_and_rows_without_marks(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    full = pai_document([(list(range(20, 28)), 2), (list(range(30, 38)), 7)], 16, 1)
    unmarked = [5, 6, 7, 8] + [1] * 12 + [-100, -100, 8] + [-100] * 13
    write_pai(tmp_path / "pai", [full, unmarked])
    found = samples_of(tmp_path / "pai", 16, tokenizer)
    assert found[0] == (list(range(20, 27)), [0, *range(22, 28)])
    assert found[1] == (list(range(30, 37)), [0] * 6 + [37])
    assert found[2] == ([5, 6, 7], [0, 0, 8])


def test_small_vocabularies_wrapped_round_in_16_bits(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    write_pai(tmp_path / "pai", [pai_document(SAMPLES[:3], 16, 1), pai_document(SAMPLES[3:], 16, 1)])
    numbers = np.fromfile(tmp_path / "pai.bin", dtype=np.int32)
    numbers.astype(np.int16).tofile(tmp_path / "pai.bin")
    index = bytearray((tmp_path / "pai.idx").read_bytes())
    index[17] = 8  # uint16
    struct.pack_into("<2q", index, 34 + 2 * 4, 0, 2 * 32)  # offsets, of two sequences
    (tmp_path / "pai.idx").write_bytes(index)
    assert samples_of(tmp_path / "pai", 16, tokenizer) == EXPECTED


def test_a_wrong_sequence_length_is_noticed(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    """Pai's own reader feeds labels as tokens, and does not notice."""
    write_pai(tmp_path / "pai", [pai_document(SAMPLES[:3], 16, 1)])
    with pytest.raises(DataError, match=r"documents of 32 numbers .* are for sequence length 16, not 32"):
        open_idxmap(tmp_path / "pai", 32, tokenizer)


def test_ids_that_are_none_are_noticed(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    document = pai_document(SAMPLES[:3], 16, 1)
    document[3] = 5000
    write_pai(tmp_path / "pai", [pai_document(SAMPLES[3:], 16, 1), document])
    with pytest.raises(DataError, match=r"row 1, position 3: token 5000 .* ids are 0 to 1023"):
        open_idxmap(tmp_path / "pai", 16, tokenizer)


def test_samples_without_a_label_are_counted(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    document = pai_document([([5, 6, 7], 3), SAMPLES[1]], 16, 1)
    write_pai(tmp_path / "pai", [document])
    _, report = open_idxmap(tmp_path / "pai", 16, tokenizer)
    assert (report.rows, report.samples, report.lost_rows) == (2, 1, 1)


def test_missing_files_are_errors(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    with pytest.raises(DataError, match=r"none\.idx is missing"):
        open_idxmap(tmp_path / "none", 16, tokenizer)
