"""Steps and checks ask only for facts that somebody finds: a misspelt one fails when the module is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.launch.checks import CHECKS
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import STEPS, Findings, finds, in_order, run_steps, wanted_facts


@finds("length")
def find_length(*, seq_len: int) -> Findings:
    yield "length", seq_len


def check_length(*, length: int) -> Findings:
    yield Problem("sequence-too-long", "SEQ_LEN", limit=length)


def check_misspelt(*, lenght: int) -> Findings:
    yield "never", lenght


def test_facts_are_passed_on() -> None:
    facts: dict[str, object] = {"seq_len": 7}
    found = run_steps(in_order(find_length, check_length), facts)
    assert [(one.code, one.message.values) for one in found] == [("sequence-too-long", {"limit": 7})]
    assert facts["length"] == 7


def test_a_step_stands_there_once() -> None:
    """A second one would tell each of its problems twice."""
    with pytest.raises(NameError, match="find_length stands there twice"):
        in_order(find_length, find_length)


def test_a_misspelt_fact_is_refused() -> None:
    with pytest.raises(NameError, match="check_misspelt asks for lenght, which no step before it finds"):
        in_order(find_length, check_misspelt)
    with pytest.raises(NameError, match="check_length asks for length"):
        in_order(check_length, find_length)  # found, but later
    with pytest.raises(NameError, match="finds never, which it does not declare"):
        run_steps((check_misspelt,), {"lenght": 1})


@pytest.mark.parametrize("name", ["mp_megatron_args", "tokenizer", "dp"])
def test_a_misspelt_check_fails_at_import(name: str, tmp_path: Path) -> None:
    """In a copy of checks/ one keyword is misspelt."""
    misspelt = 0
    (tmp_path / "checks_copy").mkdir()
    for path in sorted((REPOSITORY / "megatron_patch" / "launch" / "checks").glob("*.py")):
        text = path.read_text().replace("megatron_patch.launch.checks.", "checks_copy.")
        if not misspelt and f"{name}: " in text:
            text, misspelt = text.replace(f"{name}: ", f"{name}x: ", 1), 1
        (tmp_path / "checks_copy" / path.name).write_text(text)
    assert misspelt
    done = subprocess.run(
        [sys.executable, "-c", "import checks_copy"],
        env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert f"asks for {name}x, which no step before it finds" in done.stderr


def test_every_step_asks_for_something() -> None:
    assert all(wanted_facts(step) for step in (*STEPS, *CHECKS))
