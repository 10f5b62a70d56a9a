"""The straight line from a command line to torchrun."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_patch.launch.checks import CHECKS
from megatron_patch.launch.command import Command, build_command
from megatron_patch.launch.config import POSITIONS, missing_positions, read_values, typed_values
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.memory import gigabytes
from megatron_patch.launch.notes import annotate, cheapest_change
from megatron_patch.launch.plan import Plan, build_plan, to_json, values_of
from megatron_patch.launch.problems import Problem, label, quoted, render_all
from megatron_patch.launch.render import USAGE, full_plan, help_text, short_plan, table
from megatron_patch.launch.resolve import STEPS, facts_of_environment, run_steps
from megatron_patch.launch.resume import compare_values, read_earlier

USAGE_ERROR = 2


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the driver; a real start does not return.

    Returns:
        0 after help, a dry run or a finished run; 2 where something is wrong.
    """
    if "--help" in arguments or "-h" in arguments:
        print(help_text())
        return 0
    values = [argument for argument in arguments if argument != "--dry-run"]
    if len(values) != len(POSITIONS):
        return _wrong_number(values)
    plan, environment, problems = make_plan(values, environ, dry_run=len(values) < len(arguments))
    if plan is None:
        print(render_all(problems, {**environ, **typed_values(values)}), file=sys.stderr)
        return USAGE_ERROR
    command = build_command(plan, environment)
    if environment.dry_run:
        print(full_plan(plan, command))
        return 0
    print(short_plan(plan), flush=True)
    if not plan.finished:
        start(plan, command, environ)
    return 0


def _wrong_number(values: list[str]) -> int:
    lines = [USAGE, "", *table(), ""]
    if len(values) < len(POSITIONS):
        missing = " or ".join(label(position.name) for position in missing_positions(values)[:3])
        rest = ", and what follows it" if len(values) < len(POSITIONS) - 1 else ""
        lines.append(f"{len(values)} of {len(POSITIONS)} values are given; missing: {missing}{rest}")
    else:
        left = ", ".join(map(quoted, values[len(POSITIONS) :]))
        lines.append(f"more than {len(POSITIONS)} values are given; left over: {left}; valid after them: --dry-run")
    print("\n".join(lines), file=sys.stderr)
    return USAGE_ERROR


def make_plan(
    values: Sequence[str], environ: Mapping[str, str], *, dry_run: bool
) -> tuple[Plan | None, Environment, list[Problem]]:
    """Everything that can be known before torch is imported.

    Args:
        values: 25 strings.
        environ: normally os.environ.
        dry_run: `--dry-run` was given; DRY_RUN=1 counts too.
    Returns:
        The plan, None if something is wrong; where it was made; and what is wrong.
    """
    facts, wrong = read_values(values)
    problems = [
        Problem(names=(position.name,), what=wrong[position.name], valid=position.kind.valid)
        for position in POSITIONS
        if position.name in wrong
    ]
    outside, more = facts_of_environment(environ, facts.get("env"), dry_run)
    facts |= outside
    environment: Environment = facts["environment"]
    problems += [*more, *run_steps(STEPS, facts), *run_steps(CHECKS, facts)]
    if problems:
        return None, environment, problems
    plan = build_plan(facts, read_earlier(facts["output_basepath"]))
    shape = dataclasses.asdict(plan.shape) | {"vocab_rows": plan.vocab_rows}
    problems, changes = compare_values(plan.earlier, values_of(plan), shape)
    if not environment.dry_run:
        problems += _refusals(plan)
    return (None if problems else annotate(plan, environment, changes)), environment, problems


def _refusals(plan: Plan) -> list[Problem]:
    """What a dry run may show and a real start may not begin."""
    found = []
    if plan.config.sft:  # until the SFT trainer is built: only this block has to go
        what = "finetuning is not built yet; DRY_RUN=1 shows its plan"
        found.append(Problem(names=("SFT",), what=what, valid="false"))
    if plan.device == "cpu" and plan.memory_limit is not None and plan.memory.static > plan.memory_limit:
        what = (
            f"weights, gradients and optimizer of one process take {gigabytes(plan.memory.static)}, "
            f"there are {gigabytes(max(0, plan.memory_limit))} of RAM for it"
        )
        found.append(Problem(names=("MODEL_SIZE",), what=what, valid=cheapest_change(plan)))
    return found


def start(plan: Plan, command: Command, environ: Mapping[str, str]) -> None:
    """Write plan.json and command.txt, and become torchrun."""
    if plan.cluster is None or plan.cluster.node_rank == 0:
        output = Path(plan.output)
        output.mkdir(parents=True, exist_ok=True)
        _write(output / "plan.json", to_json(plan))
        _write(output / "command.txt", command.shell() + "\n")
    sys.stdout.flush()
    os.execve(command.argv[0], list(command.argv), command.environment(environ))


def _write(path: Path, content: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)
