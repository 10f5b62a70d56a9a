"""Weights are kept at every moment, and every row of a dataset is taken in turn."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.blend import interleave, parse_blend


def test_parse() -> None:
    assert [(part.paths, part.weight) for part in parse_blend(["0.3", "a", "0.7", "b"])] == [
        (("a",), 0.3),
        (("b",), 0.7),
    ]
    assert [(part.paths, part.weight) for part in parse_blend(["a", "b"])] == [(("a", "b"), None)]
    assert [(part.paths, part.weight) for part in parse_blend(["7"])] == [(("7",), None)]  # a file of that name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no dataset"),
        (["0.3", "a", "b"], "WEIGHT PATH"),
        (["0.3", "a", "0.7"], "WEIGHT PATH"),
        (["0", "a", "1", "b"], "positive numbers; found 0"),
        (["nan", "a"], "positive numbers"),
    ],
)
def test_parse_says_what_is_wrong(words: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        parse_blend(words)


@pytest.mark.parametrize("weights", [[1.0], [0.3, 0.7], [5, 1, 1], [1e-6, 1.0], [0.2] * 5])
def test_each_prefix_has_the_shares_to_within_a_row(weights: list[float]) -> None:
    count = 1000
    which, row = interleave(weights, count)
    assert len(which) == len(row) == count
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        taken = np.cumsum(which == number)
        assert np.abs(taken - share * np.arange(1, count + 1)).max() <= 1
        assert row[which == number].tolist() == list(range(taken[-1]))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = interleave([0.3, 0.7], 500), interleave([0.3, 0.7], 2000)
    assert short[0].tolist() == long[0][:500].tolist() and short[1].tolist() == long[1][:500].tolist()
