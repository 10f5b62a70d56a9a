"""No command line of this package repeats a secret that was given to a misspelt flag."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_patch.common.command_line import ArgumentParser

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "hf_abcdefghijklmnop"


@pytest.mark.parametrize(
    "words",
    [
        ["--wandb_tokn", SECRET],
        [f"--wandb_tokn={SECRET}"],
        [f"--wandb={SECRET}"],
        ["sub", "--tokn", SECRET],
        ["--tokn", SECRET],
        ["--wandb_name", "x", "--tokn", SECRET, "sub"],
    ],
)
def test_a_value_of_an_unknown_flag_is_masked(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(prog="tool")
    parser.add_argument("--wandb_token")
    parser.add_argument("--wandb_name")
    parser.add_subparsers().add_parser("sub")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert SECRET not in said and "hf_..." in said


def test_the_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ArgumentParser(prog="tool").parse_args(["--wandb_tokn", SECRET])
    assert "unrecognized arguments: --wandb_tokn hf_..." in capsys.readouterr().err


def test_no_flag_is_taken_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(prog="tool")
    parser.add_argument("--iterations", type=int)
    assert parser.parse_args(["--iterations", "5"]).iterations == 5
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--iter", "5"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --iter 5; nearest: --iterations" in capsys.readouterr().err


def test_a_flag_that_is_missing_may_be_the_one_that_is_misspelt(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(prog="tool")
    parser.add_argument("--gpus", required=True)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--gpu={SECRET}"])
    said = capsys.readouterr().err
    assert "required: --gpus; unrecognized arguments: --gpu=hf_...; nearest: --gpus" in said


def test_what_is_no_secret_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ArgumentParser(prog="tool").parse_args(["--size", "8B", "/data/a", "12345678901"])
    assert "unrecognized arguments: --size 8B /data/a 12345678901" in capsys.readouterr().err


def test_every_tool_reads_its_command_line_so() -> None:
    """Megatron's flags are read twice, by its own parser the second time."""
    allowed = {"megatron_patch/common/command_line.py", "megatron_patch/trainer/arguments.py"}
    rooms = ("megatron_patch", "benchmarks", "tests/faults", "toolkits", "examples")
    made = {
        str(path.relative_to(REPOSITORY))
        for room in rooms
        for path in (REPOSITORY / room).rglob("*.py")
        if re.search(r"argparse\.ArgumentParser\((?!argparse)|allow_abbrev=True", path.read_text())
    }
    assert made <= allowed
