"""MP_SPLIT under SFT: which conversations are for validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.held_out import hold_out
from megatron_patch.data.sft.prepare import Component, SFTData, open_components

Write = Callable[[Path, list[Any]], Path]
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def component(tmp_path: Path, tokenizer_folder: Path, write: Write, rows: int, turns: str = "together") -> Component:
    data = write(tmp_path / "a.jsonl", [{"messages": TURNS * (1 + number % 3)} for number in range(rows)])
    how = SFTData(tokenizer=tokenizer_folder, seq_length=512, cache=tmp_path / "cache", workers=1, turns=turns)
    (found,) = open_components([str(data)], how, say=lambda message: None)
    return found


def places(part: Component) -> list[str]:
    return [str(part.samples.origin(number)) for number in range(len(part.samples.lengths))]


@pytest.mark.parametrize("turns", ["together", "one-by-one"])
def test_conversations_are_for_training_or_for_validation(
    tmp_path: Path, tokenizer_folder: Path, write_json_lines: Write, turns: str
) -> None:
    """As a whole, all of them, by their shares, the same at each start; a sample is what it was."""
    whole = component(tmp_path, tokenizer_folder, write_json_lines, 60, turns)
    training, validation = hold_out(whole, "90,10")
    assert len(set(places(validation))) == 6 and not set(places(training)) & set(places(validation))
    assert sorted(places(training) + places(validation)) == sorted(places(whole))
    assert places(hold_out(whole, "90,10")[1]) == places(validation) != sorted(places(whole))[:6]
    at = places(whole).index(places(validation)[0])
    for one, other in zip(validation.samples.sample(0), whole.samples.sample(at), strict=True):
        assert np.array_equal(one, other)


def test_a_third_share_is_not_read_and_an_empty_one_is_refused(
    tmp_path: Path, tokenizer_folder: Path, write_json_lines: Write
) -> None:
    whole = component(tmp_path, tokenizer_folder, write_json_lines, 20)
    assert [len(places(part)) for part in hold_out(whole, "8,1,1")] == [16, 2]
    for split in ("99,1", "1,99"):
        with pytest.raises(DataError, match="20 conversations, of which MP_SPLIT"):
            hold_out(whole, split)
