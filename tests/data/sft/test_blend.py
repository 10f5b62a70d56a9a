"""Weights are kept at every moment, and every row of a dataset is taken in turn."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_patch.data.blend import parse_blend, words_of
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.blend import interleave


def test_weights_and_paths_alternate_or_no_path_has_a_weight() -> None:
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
        (["0.3", "a", "b"], "weight, path"),
        (["0.3", "a", "0.7"], "weight, path"),
        (["0", "a", "1", "b"], "numbers above 0 before every path; found 0"),
        (["nan", "a"], "numbers above 0"),
        (["1", "a", "1_0", "b"], "weight, path"),
        (["-1", "a", "1e999", "b"], "numbers above 0 before every path; found -1, inf"),
    ],
)
def test_parse_says_what_is_wrong(words: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        parse_blend(words)


def test_words_with_spaces_and_paths_that_look_like_weights() -> None:
    there = {"with space", "0.5", "a"}.__contains__
    assert words_of("with space", there) == ["with space"]
    assert words_of(" 1 with space  2 a", there) == ["1", "with space", "2", "a"]
    assert parse_blend(["0.5", "a"], there)[0].paths == ("0.5", "a")


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
