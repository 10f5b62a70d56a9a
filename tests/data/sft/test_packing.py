"""Packing: properties on random lengths, against the plain algorithm, and the fill on realistic ones."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_patch.data.sft.packing import Packing, pack, padded

LENGTHS = {
    "lognormal": lambda random, n, size: np.clip(random.lognormal(5.0, 1.0, n).astype(int), 1, size),
    "uniform": lambda random, n, size: random.integers(1, size + 1, n),
    "few": lambda random, n, size: random.choice([1, size // 3, size // 2, size // 2 + 1, size], n),
    "one length": lambda random, n, size: np.full(n, random.integers(1, size + 1)),
}


def plain_best_fit_decreasing(lengths: np.ndarray, capacity: int) -> list[int]:
    """What is free in each row, one sample after the other."""
    free: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fits = [(room, i) for i, room in enumerate(free) if room >= length]
        if fits:
            free[min(fits)[1]] -= length
        else:
            free.append(capacity - length)
    return sorted(free)


def rows_of(packing: Packing) -> list[list[int]]:
    return [packing.slots[a:b].tolist() for a, b in zip(packing.starts[:-1], packing.starts[1:], strict=True)]


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("seed", range(6))
def test_packing_is_best_fit_decreasing(kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    capacity = int(random.integers(8, 700))
    lengths = LENGTHS[kind](random, int(random.integers(1, 400)), capacity).astype(np.int64)
    packing = pack(lengths, capacity)
    rows = rows_of(packing)
    assert sorted(length for row in rows for length in row) == sorted(lengths.tolist())  # none lost, none doubled
    assert all(row and sum(row) <= capacity for row in rows)
    assert sorted(capacity - sum(row) for row in rows) == plain_best_fit_decreasing(lengths, capacity)
    assert packing.widest == max(map(len, rows))
    assert packing.fill(int(lengths.sum())) == pytest.approx(lengths.sum() / (len(rows) * capacity))


def test_each_sample_gets_one_slot_of_its_length_and_the_order_decides_which() -> None:
    random = np.random.default_rng(1)
    lengths = random.integers(1, 50, 500)
    packing = pack(lengths, 64)
    first = packing.deal(lengths, np.arange(500))
    second = packing.deal(lengths, random.permutation(500))
    for members in (first, second):
        assert sorted(members.tolist()) == list(range(500))
        assert (lengths[members] == packing.slots).all()
    assert (first != second).mean() > 0.5
    same = np.flatnonzero(lengths == lengths[0])
    assert [number for number in first.tolist() if lengths[number] == lengths[0]] == same.tolist()


@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_a_million_samples_at_4096_are_full_to_98_percent(multiple: int) -> None:
    # Lengths of conversations: alpaca's are about 100 tokens, ShareGPT's about 1,000 with a long tail.
    random = np.random.default_rng(0)
    short, long = random.lognormal(4.6, 0.7, 700_000), random.lognormal(6.6, 1.0, 300_000)
    lengths = np.clip(np.concatenate([short, long]).astype(np.int64), 2, 4096)
    packing = pack(padded(lengths, multiple), 4096)
    assert len(packing.slots) == 1_000_000
    assert np.add.reduceat(packing.slots, packing.starts[:-1]).max() <= 4096
    assert packing.fill(int(padded(lengths, multiple).sum())) >= 0.999
    assert packing.fill(int(lengths.sum())) >= (0.98 if multiple <= 4 else 0.97)


def test_small_sets_too() -> None:
    random = np.random.default_rng(3)
    lengths = np.clip(random.lognormal(5.0, 1.0, 5000).astype(np.int64), 2, 4096)
    assert pack(lengths, 4096).fill(int(lengths.sum())) >= 0.98


@pytest.mark.parametrize("lengths", [[0, 3], [3, 65], [-1]])
def test_lengths_that_fit_no_row_are_errors(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="must be 1 to 64"):
        pack(np.array(lengths), 64)


def test_nothing_packs_to_nothing() -> None:
    assert len(pack(np.zeros(0, dtype=np.int64), 64)) == 0


def test_padding_to_a_multiple() -> None:
    assert padded(np.array([1, 4, 5]), 4).tolist() == [4, 4, 8]
    assert padded(np.array([1, 4, 5]), 1).tolist() == [1, 4, 5]
