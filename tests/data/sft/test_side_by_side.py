"""What `inspect.py --line` shows: each turn beside its text, what is trained, what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from megatron_patch.data.sft.loss_mask import EARLIER_TURN, LAST_TURN
from megatron_patch.data.sft.side_by_side import Training, compare

from .test_fidelity import CHATML, LAST_REASONING, chat, template

SYSTEM = {"role": "system", "content": "Be kind, 请用中文回答。 " * 8}


def shown(tmp_path: Path, messages: list[dict[str, Any]], text: str = CHATML, **options: Any) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n")
    return compare(path, 1, template(text), 100, **options)


def test_each_answer_stands_beside_its_text(tmp_path: Path) -> None:
    out = shown(tmp_path, [SYSTEM, *chat("2+2?", "four", "really?", "yes " * 40)])
    lines = out.splitlines()
    assert all(cell_len(line) <= 100 for line in lines[1:])
    assert all(cell_len(line.split("│")[0]) == 49 for line in lines if "│" in line)
    (first,) = (line for line in lines if line.startswith("3 assistant:"))
    assert first.endswith("│ ⟦four<|im_end|>⟧")
    (last,) = (line for line in lines if line.startswith("5 assistant:"))
    assert "│ ⟦yes yes" in last and out.endswith("Nothing of it is left out; used.")


def test_what_is_left_out_is_marked_where_it_stands(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "4", "reasoning_content": "two, two"}
    out = shown(tmp_path, [*chat("2+2?"), answer, *chat("3+3?", "6")], LAST_REASONING)
    assert "[left out] reasoning_content: two, two" in out and "MP_SFT_TURNS=one-by-one trains each turn" in out
    no_system = CHATML.replace("in messages %}", "in messages if m.role != 'system' %}")
    out = shown(tmp_path, [SYSTEM, *chat("2+2?", "4")], no_system)
    assert "[left out] Be kind" in out and out.endswith("Lost for that; MP_SFT_DROPPED=keep uses it as it is.")


def test_colours_and_control_characters(tmp_path: Path) -> None:
    messages = chat("\x1b[31mred", "a\x1b]0;title\x07b")
    out = shown(tmp_path, messages)
    assert "\x1b" not in out and "\x07" not in out
    coloured = shown(tmp_path, messages, colour=True)
    assert "\x1b[32m⟦a" in coloured and "\x1b]" not in coloured


def test_a_row_that_is_lost_is_shown_as_it_stands(tmp_path: Path) -> None:
    out = shown(tmp_path, [{"role": "robot", "content": "x"}])
    assert "rows.jsonl:1: lost: message 1 has role 'robot'" in out.splitlines()[0] and '"role": "robot"' in out


ONE_TOKEN_A_LETTER = 3 * [0] + [EARLIER_TURN] * 4 + [0] * 3 + [LAST_TURN] * 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seq_length": 13}, "Nothing of it is left out; used."),
        ({"seq_length": 12}, "14 tokens, and a row holds 13: cut there; 7 of 8 trained ones stay."),
        ({"seq_length": 9, "loss": "last"}, "14 tokens, and a row holds 10: lost, nothing is trained in the first 10."),
        ({"seq_length": 9, "overlong": "drop"}, "14 tokens, and a row holds 10: lost (MP_SFT_OVERLONG=drop)."),
        ({"seq_length": 9, "overlong": "error"}, "a row holds 10: no training starts (MP_SFT_OVERLONG=error)."),
    ],
)
def test_what_the_length_makes_of_a_row(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    """It said `used` of a row that the same command without --line counted as lost."""
    turns = np.array(ONE_TOKEN_A_LETTER, dtype=np.uint8)
    out = shown(tmp_path, chat("a", "b", "c", "d"), training=Training(**options, encode=lambda rendered: turns))
    assert out.endswith(said)
    assert ("The chat template leaves nothing out." in out) == ("a row holds" in said)


def test_what_is_learned_of_a_row(tmp_path: Path) -> None:
    """As MP_SFT_LOSS, MP_SFT_TURNS and MP_SFT_DROPPED say."""
    for loss, said in (("assistant", "Lost: nothing in it is to be trained."), ("all", "left out; used.")):
        assert shown(tmp_path, chat("2+2?"), training=Training(loss=loss)).endswith(said)
    messages = chat("2+2?", "four", "3+3?", "six")
    last = shown(tmp_path, messages, training=Training(loss="last"))
    assert "⟦six<|im_end|>⟧" in last and "⟦four" not in last
    every = shown(tmp_path, messages, training=Training(loss="all"))
    assert "⟦<|im_start|>user" in every and "⟦four<|im_end|>⟧" in every
    alone = shown(tmp_path, messages, training=Training(turns="one-by-one"))
    assert alone.count("Nothing of it is left out; used.") == 2
    assert alone.count("⟦four<|im_end|>⟧") == alone.count("⟦six<|im_end|>⟧") == 1
    no_system = CHATML.replace("in messages %}", "in messages if m.role != 'system' %}")
    kept = shown(tmp_path, [SYSTEM, *messages], no_system, training=Training(dropped="keep"))
    assert kept.endswith("Used as it is (MP_SFT_DROPPED=keep).")


@pytest.mark.parametrize("width", [1, 40, 200])
def test_no_line_is_wider_than_the_terminal(width: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [SYSTEM, *chat("2+2?", "4")]}) + "\n")
    assert all(cell_len(line) <= max(width, 43) for line in compare(path, 1, template(CHATML), width).splitlines()[2:5])
