"""The MP_* variables."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.variables import BY_FIELD, VARIABLES, Variable, Variables, read_variables


def test_nothing_set_is_the_defaults() -> None:
    values, problems = read_variables({})
    assert not problems
    assert Variables(**values) == Variables()


def test_an_empty_variable_is_not_set() -> None:
    assert read_variables({"MP_VP": "", "MP_TOKENIZER_PATH": ""}) == read_variables({})


def test_a_wrong_variable_hides_no_other() -> None:
    values, problems = read_variables({"MP_VP": "x", "MP_SEED": "5", "MP_SEEED": "6"})
    assert [problem.names[0] for problem in problems] == ["MP_SEEED", "MP_VP"]
    assert values["seed"] == 5
    assert "vp" not in values


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_every_variable_is_read(variable: Variable) -> None:
    """A value that differs from the default arrives in its field."""
    samples = (
        *str(variable.kind.expects).split(", "),
        "3",
        "30",
        "0.25",
        "0:4,1e6:8",
        "2-3",
        '{"q_proj": 8}',
        "some text",
    )
    for sample in samples:
        values, problems = read_variables({variable.name: sample})
        field = variable.name.removeprefix("MP_").lower()
        if not problems and values[field] != variable.default:
            return
    raise AssertionError(f"{variable.name} takes none of {samples}")


def test_every_variable_is_used() -> None:
    """A variable may not silently do nothing: some module beside the table and the remarks reads its field."""
    wing = (REPOSITORY / "megatron_patch" / "launch").rglob("*.py")
    used = "".join(path.read_text() for path in wing if path.stem not in ("variables", "notes", "render"))
    used += (REPOSITORY / "megatron_patch" / "common" / "messages.py").read_text().replace('"MP_LANG"', "mp_lang")
    for row in dataclasses.fields(Variables):
        read = re.search(rf"""(variables\.|\bmp_|variables\.get\("){row.name}\b""", used)
        assert row.metadata["flag"] or read, row.name


def test_a_variable_that_passes_a_flag_on_is_one_row(
    tmp_path: Path, world: Path, values: Callable[..., list[str]]
) -> None:
    """In a copy of the package one row is added to the table; the flag is in the argv, the help and the reference."""
    package = tmp_path / "megatron_patch"
    shutil.copytree(REPOSITORY / "megatron_patch" / "launch", package / "launch")
    for other in (REPOSITORY / "megatron_patch").iterdir():
        if other.name not in ("launch", "__pycache__"):
            (package / other.name).symlink_to(other)
    table = package / "launch" / "variables" / "optimizer.py"
    row = '    hysteresis: int | None = row(None, whole(1), "steps", "步数", flag="--hysteresis")\n'
    marker = "    clip_grad: float"
    table.write_text(table.read_text().replace(marker, row + marker))

    def run(*arguments: str, **variables: str) -> str:
        code = "import os, sys; from megatron_patch.launch.driver import main; sys.exit(main(sys.argv[1:], os.environ))"
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "MP_TOKENIZER_PATH": "tokenizer"}
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, cwd=world, env=environ | variables, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    typed = [*values(), "--dry-run"]
    assert "--hysteresis 7" in run(*typed, MP_HYSTERESIS="7")
    assert "--hysteresis" not in run(*typed)
    assert "MP_HYSTERESIS" in run("--help")


def test_what_a_variable_passes_on() -> None:
    """None and what is off are left out, a default too unless it always goes; a switch has no value."""
    assert BY_FIELD["keep_checkpoints"].argv(None) == []
    assert BY_FIELD["keep_checkpoints"].argv(2) == ["--keep-checkpoints", "2"]
    assert BY_FIELD["sft_packing"].argv(True) == ["--sft-packing"]
    assert BY_FIELD["sft_packing"].argv(False) == []
    assert BY_FIELD["adam_eps"].argv(1e-8) == []
    assert BY_FIELD["weight_decay"].argv(0.1) == ["--weight-decay", "0.1"]
    assert BY_FIELD["weight_decay"].argv(0.0) == ["--weight-decay", "0.0"]
