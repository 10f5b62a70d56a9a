"""How a run is tuned: the MP_* variables, one row each, from which parsing, errors, help, reference and argv are made.

A variable that only passes a flag of Megatron's parser on is a row with `flag=` and nothing else: launch/argv.py gives
the flag where the value is not the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from megatron_patch.common.values import Kind, ValueProblem, nearest_word
from megatron_patch.launch import from_pai
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.variables.adapters import AdaptersVariables
from megatron_patch.launch.variables.cluster import ClusterVariables
from megatron_patch.launch.variables.data import DataVariables
from megatron_patch.launch.variables.layout import LayoutVariables
from megatron_patch.launch.variables.muon import MuonVariables
from megatron_patch.launch.variables.optimizer import OptimizerVariables
from megatron_patch.launch.variables.run import RunVariables
from megatron_patch.launch.variables.schedule import ScheduleVariables


@dataclass(frozen=True, kw_only=True)
class Variables(
    LayoutVariables,
    OptimizerVariables,
    MuonVariables,
    ScheduleVariables,
    AdaptersVariables,
    DataVariables,
    RunVariables,
    ClusterVariables,
):
    """The MP_* variables, one field each; None leaves the choice to the plan, which says what it took."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One row of the table of MP_* variables."""

    name: str
    field: str
    """Of Variables."""
    default: Any
    kind: Kind
    meaning: str
    chinese: str
    flag: str
    """Of the parser, where the value is only passed on; else empty."""
    always: bool
    """The flag is given for the default too."""
    matters: tuple[str, ...]
    """A position, a variable or DEVICE, and the values of it under which this does something; empty: always."""

    def argv(self, value: Any) -> list[str]:
        """The flag as words of a command line; none where it is left out."""
        if value is None or value is False or (value == self.default and not self.always):
            return []
        if value is True:
            return [self.flag]
        return [self.flag, repr(value) if isinstance(value, float) else str(value)]


VARIABLES = tuple(
    Variable(name=f"MP_{row.name.upper()}", field=row.name, default=row.default, **row.metadata)
    for row in sorted(fields(Variables), key=lambda row: row.name)
)
BY_FIELD = {variable.field: variable for variable in VARIABLES}


def read_variables(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """Read the MP_* variables; an empty one counts as not set, as in Pai-Megatron-Patch's `[ -z ${MP_AC_LAYERS} ]`.

    Returns:
        Values by field name of Variables, defaults included, without those that could not be read; and what is wrong.
    """
    known = {variable.name: variable for variable in VARIABLES}
    values = {variable.field: variable.default for variable in VARIABLES}
    problems = []
    for name in sorted(name for name in environ if name.startswith("MP_") and environ[name]):
        if name in from_pai.VARIABLES:
            problems.append(Problem(from_pai.VARIABLES[name], name))
            continue
        if name not in known:
            near = nearest_word(name, tuple(known))
            unknown = Problem("unknown-variable-nearest", name, nearest=near) if near else None
            problems.append(unknown or Problem("unknown-variable", name))
            continue
        variable = known[name]
        try:
            values[variable.field] = variable.kind.parse(environ[name])
        except ValueProblem as error:
            del values[variable.field]
            problems += Problem.of(error, name, expected=variable.kind.expects)
    return values, problems
