"""The MP_* variables."""

from __future__ import annotations

import dataclasses
import re

import pytest

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.variables import VARIABLES, Variables, read_variables


def test_defaults() -> None:
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
def test_every_variable_is_read(variable: object) -> None:
    """A value that differs from the default arrives in its field."""
    name = variable.name  # type: ignore[attr-defined]
    samples = (*variable.kind.valid.split(", "), "3", "30", "0.25", "some text")  # type: ignore[attr-defined]
    default = variable.default  # type: ignore[attr-defined]
    for sample in samples:
        values, problems = read_variables({name: sample})
        field = name.removeprefix("MP_").lower()
        if not problems and values[field] != default:
            return
    raise AssertionError(f"{name} takes none of {samples}")


def test_every_variable_is_used() -> None:
    """A variable may not silently do nothing: some module beside the table and the remarks reads its field."""
    wing = (REPOSITORY / "megatron_patch" / "launch").rglob("*.py")
    used = "".join(path.read_text() for path in wing if path.stem not in ("variables", "notes", "render"))
    for row in dataclasses.fields(Variables):
        assert re.search(rf"""(variables\.|\bmp_|variables\.get\("){row.name}\b""", used), row.name
