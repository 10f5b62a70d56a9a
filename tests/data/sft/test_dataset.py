"""Rows: every sample once an epoch, whole and alone; any item of any epoch without what came before."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from megatron_patch.data.sft.dataset import RowDataset, training_rows, validation_rows
from megatron_patch.data.sft.layout import RowLayout
from megatron_patch.data.sft.prepare import Component, SFTData, open_components
from megatron_patch.data.sft.report import DataReport, TooMuchLost

PAD = 7


@dataclass(kw_only=True)
class Made:
    """Samples whose numbers say where they come from: token = 1000 x sample + position."""

    lengths: npt.NDArray[np.int64]

    def sample(self, number: int) -> tuple[Any, Any, Any]:
        tokens = 1000 * (number + 1) + np.arange(self.lengths[number] + 1, dtype=np.int32)
        mask = np.arange(self.lengths[number]) >= self.lengths[number] // 2
        return tokens[:-1], tokens[1:], mask

    def origin(self, number: int) -> str:
        return str(number)


def made(count: int = 200, size: int = 64, seed: int = 0) -> Made:
    return Made(lengths=np.random.default_rng(seed).integers(1, size + 1, count))


def segments(item: dict[str, torch.Tensor], size: int) -> list[slice]:
    if "cu_seqlens" not in item:
        return [slice(0, size)]
    ends = item["cu_seqlens"].tolist()
    assert ends[0] == 0 and ends[-1] == size and ends == sorted(ends)
    return [slice(a, b) for a, b in itertools.pairwise(ends) if b > a]


@pytest.mark.parametrize(("packing", "parallel"), [(False, 1), (True, 1), (True, 2), (True, 4)])
def test_every_sample_once_an_epoch_whole_and_alone(packing: bool, parallel: int) -> None:
    samples = made()
    layout = RowLayout(seq_length=64, packing=packing, pad_id=PAD, context_parallel_size=parallel)
    rows = RowDataset(samples, layout, seed=5)
    assert rows.rows_per_epoch == (len(rows) if packing else 200)
    seen = []
    for i in range(len(rows)):
        item = rows[i]
        assert {name: (tuple(value.shape), value.dtype) for name, value in item.items() if name != "cu_seqlens"} == {
            "tokens": ((64,), torch.int64),
            "labels": ((64,), torch.int64),
            "loss_mask": ((64,), torch.float32),
            "position_ids": ((64,), torch.int64),
            **({"max_seqlen": ((), torch.int32)} if packing else {}),
        }
        parts = segments(item, 64)
        if packing:
            assert item["cu_seqlens"].dtype == torch.int32 and len(item["cu_seqlens"]) == rows.boundaries
            assert item["max_seqlen"] == max(part.stop - part.start for part in parts)
        for part in parts:
            length = part.stop - part.start
            assert item["position_ids"][part].tolist() == list(range(length))
            number = int(item["tokens"][part.start]) // 1000 - 1
            if number < 0:
                assert part.stop == 64 and (item["tokens"][part] == PAD).all() and not item["loss_mask"][part].any()
                continue
            seen.append(number)
            inputs, labels, mask = samples.sample(number)
            n = len(inputs)
            assert length % (2 * parallel if parallel > 1 else 1) == 0 and (not packing or length - n < 2 * parallel)
            assert item["tokens"][part].tolist() == [*inputs, *[PAD] * (length - n)]
            assert item["labels"][part].tolist() == [*labels, *[PAD] * (length - n)]
            assert item["loss_mask"][part].tolist() == [*mask.astype(float), *[0.0] * (length - n)]
    assert sorted(seen) == list(range(200))
    assert rows.fill == pytest.approx(samples.lengths.sum() / (64 * len(rows)))


def test_weights_per_sequence_add_up_to_the_number_of_samples() -> None:
    layout = RowLayout(seq_length=64, packing=True, pad_id=PAD, average="sequence")
    rows = RowDataset(made(), layout, seed=0)
    for i in range(10):
        assert float(rows[i]["loss_mask"].sum()) == pytest.approx(len(rows.members(i)))


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("packing", [False, True])
def test_any_item_comes_out_the_same_without_those_before_it(packing: bool) -> None:
    layout = RowLayout(seq_length=64, packing=packing, pad_id=PAD)
    first = RowDataset(made(), layout, num_rows=1000, seed=5)
    everything = [first[i] for i in range(3 * first.rows_per_epoch + 5)]
    again = RowDataset(made(), layout, num_rows=1000, seed=5)
    for i in (len(everything) - 1, 2 * first.rows_per_epoch, 17, first.rows_per_epoch - 1, 0):
        assert same(again[i], everything[i])
    workers = torch.utils.data.DataLoader(again, sampler=range(len(everything)), batch_size=None, num_workers=2)
    assert all(same(left, right) for left, right in zip(workers, everything, strict=True))


def test_seeds_and_epochs_have_their_own_order_and_company() -> None:
    layout = RowLayout(seq_length=64, packing=True, pad_id=PAD)
    rows, other = (RowDataset(made(), layout, num_rows=10**6, seed=seed) for seed in (5, 6))
    n = rows.rows_per_epoch
    orders = [[rows.members(i) for i in range(n)], [rows.members(n + i) for i in range(n)]]
    orders.append([other.members(i) for i in range(n)])
    for i in range(3):
        assert sorted(number for row in orders[i] for number in row) == list(range(200))
        for j in range(i):
            company = [{frozenset(row) for row in order} for order in (orders[i], orders[j])]
            assert len(company[0] & company[1]) < n / 2  # not merely the same rows in another order


def test_validation_keeps_the_order_of_the_data() -> None:
    layout = RowLayout(seq_length=64, packing=False, pad_id=PAD)
    rows = validation_rows(Component(name="v", weight=None, samples=made(20), report=DataReport()), layout)
    assert [rows.members(i) for i in range(len(rows))] == [[i] for i in range(20)]


@pytest.mark.parametrize("packing", [False, True])
def test_blends_keep_shares_and_need_no_history(packing: bool) -> None:
    layout = RowLayout(seq_length=64, packing=packing, pad_id=PAD)
    sets = [made(50, seed=1), made(300, size=20, seed=2)]
    components = [
        Component(name=str(i), weight=weight, samples=samples, report=DataReport())
        for i, (weight, samples) in enumerate(zip((0.25, 0.75), sets, strict=True))
    ]
    blend = training_rows(components, layout, num_rows=400, seed=3)
    again = training_rows(components, layout, num_rows=400, seed=3)
    assert len(blend) == 400
    loader = torch.utils.data.DataLoader(blend, batch_size=8)
    batches = list(loader)  # stacks, so shapes agree
    assert sum(len(batch["tokens"]) for batch in batches) == 400
    assert np.mean(blend.which == 0) == 0.25
    assert same(again[399], blend[399])
    unweighted = [Component(name=c.name, weight=None, samples=c.samples, report=c.report) for c in components]
    sizes = [part.rows_per_epoch for part in blend.parts]
    both = training_rows(unweighted, layout, num_rows=sum(sizes), seed=3)
    assert [int((both.which == i).sum()) for i in range(2)] == pytest.approx(sizes, abs=1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"context_parallel_size": 3, "seq_length": 64}, "64 is not a multiple of 2 x CP = 6"),
        ({"average": "row"}, "valid: token, sequence"),
    ],
)
def test_layouts_that_make_no_sense(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RowLayout(**{"seq_length": 64, "packing": True, "pad_id": 0, **values})


# ---------------------------------------------------------------- from files, against Hugging Face


def test_megatrons_own_functions_take_the_batches() -> None:
    from megatron.core.utils import flatten_batch_for_packed_sequences

    rows = RowDataset(made(), RowLayout(seq_length=64, packing=True, pad_id=PAD, context_parallel_size=2), seed=0)
    items = [rows[i] for i in range(4)]
    batch = flatten_batch_for_packed_sequences(torch.utils.data.default_collate(items))
    assert batch["tokens"].shape == (1, 256) and batch["max_seqlen"].shape == (1,)
    expected = [0]
    for i, item in enumerate(items):
        expected += [64 * i + part.stop for part in segments(item, 64)]
    assert batch["cu_seqlens"].tolist() == [expected]


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, conversations: list[Any], write_json_lines: Callable[..., Path]
) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    rows = [{"messages": messages} for messages in conversations]
    return [
        write_json_lines(folder / "a.jsonl", rows[:40]),
        write_json_lines(folder / "b.jsonl", rows[40:]),
    ]


def test_components_of_words(files: list[Path], tokenizer_folder: Path, tmp_path: Path) -> None:
    data = SFTData(tokenizer=tokenizer_folder, seq_length=2000, cache=tmp_path, workers=1)
    said: list[str] = []
    a, b = map(str, files)
    (mixed,) = open_components([a, b], data, say=said.append)
    assert mixed.weight is None and mixed.report.samples == 60 and len(said) == 1
    first, second = open_components(["0.3", a, "0.7", b], data, say=said.append)
    assert (first.weight, second.weight) == (0.3, 0.7)
    assert (first.report.samples, second.report.samples) == (40, 20)
    with pytest.raises(TooMuchLost):
        open_components([a], SFTData(tokenizer=tokenizer_folder, seq_length=8, cache=tmp_path), say=said.append)
