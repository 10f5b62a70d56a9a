"""The straight line from a command line to torchrun."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.files import write_text
from megatron_patch.common.machine import raise_open_files
from megatron_patch.common.messages import Message, Wording, language_of, localized
from megatron_patch.common.strict_json import read_json
from megatron_patch.common.terminal import raw
from megatron_patch.launch.advice import cheapest_change
from megatron_patch.launch.build_plan import build_plan
from megatron_patch.launch.checks import CHECKS
from megatron_patch.launch.checks.adapters import frozen_stage
from megatron_patch.launch.chunks import choose_chunks
from megatron_patch.launch.cluster import kubernetes, slurm
from megatron_patch.launch.cluster.place import LEAD, SUBMIT, slurm_stage
from megatron_patch.launch.command import Command, build_command
from megatron_patch.launch.config import POSITIONS, kind_of, missing_positions, read_values, typed_values
from megatron_patch.launch.environment import KEPT_IF_SET, Environment, environment_facts
from megatron_patch.launch.epochs import UNCOUNTED, count_rows, rows_before, settle_rows, settle_tokens, take_epochs
from megatron_patch.launch.from_pai import extra_values
from megatron_patch.launch.idxmap_check import idxmap_problems
from megatron_patch.launch.memory import gigabytes
from megatron_patch.launch.notes import annotate
from megatron_patch.launch.plan import Earlier, Plan, content_of, values_of
from megatron_patch.launch.problems import Problem, driver_wording, quoted, render_all
from megatron_patch.launch.render import full_plan, help_text, short_plan, table, usage
from megatron_patch.launch.resolve import STEPS, run_steps
from megatron_patch.launch.resume import compare_values, read_earlier, vp_as_when_it_began
from megatron_patch.launch.schedule import Epochs
from megatron_patch.models import AUTO, dropout_of, families, resolve_size
from megatron_patch.runs import status as run_status
from megatron_patch.runs.folder import COMMAND, set_misfits_aside, write_plan
from megatron_patch.runs.restart import AGAIN, ASKS, Again

USAGE_ERROR = 2
MODEL_SIZE = next(position.number - 1 for position in POSITIONS if position.name == "MODEL_SIZE")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the driver; a real start does not return.

    Returns:
        0 after help, a dry run or a finished run; 2 where something is wrong.
    """
    family, arguments = _family_of_script(list(arguments))
    if family is not None and family not in families():
        problem = Problem("unknown-value", "--family", expected=Message("expect-choice", words=tuple(families())))
        print(render_all([problem], {"--family": family}, driver_wording(language_of(environ))), file=sys.stderr)
        return USAGE_ERROR
    if "--help" in arguments or "-h" in arguments:
        print(help_text(driver_wording(language_of(environ)), family))
        return 0
    values = [argument for argument in arguments if argument != "--dry-run"]
    dry_run, emit = len(values) < len(arguments), values[-2:] == ["--emit", "k8s"]
    values = values[:-2] if emit else values
    if len(values) != len(POSITIONS):
        return _wrong_number(values, driver_wording(language_of(environ)), family)
    if family is not None:
        known = resolve_size(values[MODEL_SIZE], family)
        values[MODEL_SIZE], family = known or values[MODEL_SIZE], None if known else family
    return run(values, environ, dry_run=dry_run, emit=emit, family=family)


def _family_of_script(words: list[str]) -> tuple[str | None, list[str]]:
    """`--family NAME`, which example scripts put before the values: the family whose sizes need no name in front."""
    return (words[1], words[2:]) if words[:1] == ["--family"] and len(words) > 1 else (None, words)


def run(
    values: Sequence[str],
    environ: Mapping[str, str],
    *,
    dry_run: bool = False,
    emit: bool = False,
    wording: Wording | None = None,
    family: str | None = None,
) -> int:
    """Do what 25 values say: the one way that every CLI takes.

    Args:
        dry_run: show the plan and the command only.
        emit: write the job down for Kubernetes, on standard output.
        wording: how a CLI with flags of its own speaks; else as the driver does.
        family: whose script is running.
    Returns:
        As main; 1 where the run itself failed.
    """
    wording = wording or driver_wording(language_of(environ))
    plan, environment, problems = make_plan(values, environ, dry_run=dry_run, emit=emit, family=family)
    if plan is None:
        print(render_all(problems, {**environ, **typed_values(values)}, wording), file=sys.stderr)
        return USAGE_ERROR
    if emit:
        print(kubernetes.manifests(plan, values, environ), end="", file=raw(sys.stdout))
        return 0
    command = build_command(plan, environment)
    if environment.dry_run:
        print(full_plan(plan, command, wording))
        if environment.elsewhere:
            print(f"\nslurm/job.sh\n{slurm.batch_script(plan, values, environ)}", end="")
        return 0
    if environment.elsewhere and slurm_stage(environ) == LEAD:
        return slurm.lead(plan, values, environ)
    print(short_plan(plan, wording), flush=True)
    if plan.finished and not export_is_due(plan):
        return 0
    if environment.elsewhere:
        return slurm.submit(plan, values, environ)
    return start(plan, command, {**environ, **_again(plan, values, environ, command)})


def _again(plan: Plan, values: Sequence[str], environ: Mapping[str, str], started: Command) -> dict[str, str]:
    """What torchrun needs to start this run again, where that may be asked of it."""
    if plan.cluster is not None or environ.get(AGAIN):
        return {}
    if not plan.variables.max_restarts and plan.variables.on_spike != "rollback":
        return {}
    command = (sys.executable, "-m", "megatron_patch.launch", *values)
    added = tuple(name for name in KEPT_IF_SET if name in started.set and name not in environ)
    return Again(command=command, most=plan.variables.max_restarts, added=added).variable()


def export_is_due(plan: Plan) -> bool:
    """Whether MP_EXPORT_HF asks for a folder that is not there, or is of another iteration."""
    if not plan.variables.export_hf:
        return False
    try:
        source = read_json(Path(plan.export, "manifest.json"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return bool(source != f"iter_{plan.resume_iteration:07d}")


def _one_of(names: list[str]) -> object:
    said: object = names[0]
    for name in names[1:]:
        said = Message("either", first=said, second=name)
    return said


def _wrong_number(values: list[str], wording: Wording, family: str | None) -> int:
    given, wanted = len(values), len(POSITIONS)
    experts = extra_values(values, wanted)
    if experts is not None:
        print(wording.text(experts), file=sys.stderr)
        return USAGE_ERROR
    if given < wanted:
        names = [wording.heading(position.name) for position in missing_positions(values)[:3]]
        missing = [_one_of(names)] if given == wanted - 1 else names
        code = "values-missing-and-more" if given < wanted - 3 else "values-missing"
        said = Message(code, given=given, wanted=wanted, missing=missing)
    else:
        said = Message("values-left-over", wanted=wanted, left=[quoted(one, wording) for one in values[wanted:]])
    print("\n".join([usage(wording, family), "", *table(wording, family), "", wording.text(said)]), file=sys.stderr)
    return USAGE_ERROR


def make_plan(
    values: Sequence[str],
    environ: Mapping[str, str],
    *,
    dry_run: bool,
    emit: bool = False,
    family: str | None = None,
) -> tuple[Plan | None, Environment, list[Problem]]:
    """Everything that can be known before torch is imported.

    Args:
        values: 25 strings.
        environ: normally os.environ.
        dry_run: `--dry-run` was given; DRY_RUN=1 counts too.
        emit: `--emit k8s` was given.
        family: whose script is running.
    Returns:
        The plan, None if something is wrong; where it was made; and what is wrong.
    """
    facts, wrong = read_values(values, family)
    problems = [
        problem
        for position in POSITIONS
        if position.name in wrong
        for problem in Problem.of(wrong[position.name], position.name, expected=kind_of(position, family).expects)
    ]
    outside, more = environment_facts(environ, facts.get("env"), dry_run, emit)
    facts |= outside
    facts |= vp_as_when_it_began(facts)
    environment: Environment = facts["environment"]
    asked = take_epochs(facts)
    problems += [*more, *run_steps(STEPS, facts), *settle_tokens(facts, asked), *run_steps(CHECKS, facts)]
    if problems:
        return None, environment, problems
    if not environment.dry_run and not emit:  # before looking for its newest checkpoint
        run_status.wait_while_ending(Path(facts["output_basepath"]), lambda line: print(line, file=sys.stderr))
    earlier = read_earlier(facts["output_basepath"])
    if asked and facts["epochs"] is None:
        problems = _count_epochs(facts, asked, earlier, environ)
        if problems:
            return None, environment, problems
    plan, changes, problems = _look(facts, earlier, environ)
    return (None if problems else annotate(plan, environment, changes)), environment, problems


def _count_epochs(
    facts: dict[str, Any], asked: Mapping[str, Epochs], earlier: Earlier, environ: Mapping[str, str]
) -> list[Problem]:
    """Put iterations in the place of epochs of conversations, which are tokenized only where nothing else is wrong."""
    plan, _, problems = _look(facts | {name: UNCOUNTED[name] for name in asked}, earlier, environ)
    environment: Environment = facts["environment"]
    rows = rows_before(plan)
    if rows is None:
        keep = not environment.dry_run and not environment.emits
        rows, problems = (0, problems) if problems else count_rows(plan, keep=keep)
        if problems:
            return problems
    settle_rows(facts, asked, rows)
    return run_steps(CHECKS, facts)


def _look(
    facts: Mapping[str, Any], earlier: Earlier, environ: Mapping[str, str]
) -> tuple[Plan, list[Message], list[Problem]]:
    """The plan, what is another than at the last start, and what is wrong."""
    environment: Environment = facts["environment"]
    plan = build_plan(facts, earlier)
    if (chunks := choose_chunks(plan)) != plan.layout.chunks:
        plan = build_plan({**facts, "chunks": chunks}, earlier)
    problems, changes = compare_values(plan.earlier, values_of(plan), plan.model, plan.vocab_rows)
    problems += [*_dropout_problems(plan), *_freeze_problems(plan), *_weights_problems(plan)]
    if plan.earlier.weights_only and not plan.finished:
        code = "checkpoint-weights-only" if plan.variables.lora_rank is None else "checkpoint-adapters-only"
        problems.append(Problem(code, "OUTPUT_BASEPATH", step=plan.resume_iteration))
    if not environment.dry_run and not environment.emits:
        problems += _refusals(plan, environ)
    if plan.config.env == "slurm" and slurm_stage(environ) == SUBMIT:
        problems += slurm.problems_of(plan, asks=not environment.dry_run)
    return plan, changes, problems


def _dropout_problems(plan: Plan) -> list[Problem]:
    """Dropout of a config.json: training takes none. A run that began before this was asked goes on."""
    if plan.weights.config is None or plan.resume_iteration is not None:
        return []
    names = ("PRETRAIN_CHECKPOINT_PATH",)
    found = dropout_of(plan.weights.config)
    return [Problem("dropout", *names, key=k, rate=v, file=plan.weights.origin) for k, v in found.items()]


def _freeze_problems(plan: Plan) -> list[Problem]:
    """Something to train on every pipeline stage."""
    stage = frozen_stage(plan.variables.freeze, plan.layout) if plan.variables.freeze else None
    return [] if stage is None else [Problem("freeze-stage", "MP_FREEZE", "PP", stage=stage)]


def _weights_problems(plan: Plan) -> list[Problem]:
    """What headers of safetensors say of a Hugging Face folder that this start reads: names, sizes, element types.

    Each rank looks again; but by then the ranks of all machines have come, and wait.
    """
    if plan.weights.kind != "hf" or (plan.resume_iteration is not None and plan.variables.lora_rank is None):
        return []
    from megatron_patch.checkpoint.formats.hf_folder import open_hf_folder  # a start from elsewhere saves it

    try:
        open_hf_folder(Path(plan.weights.path), AUTO)
    except CheckpointError as error:
        return [Problem("hf-weights", "PRETRAIN_CHECKPOINT_PATH", what=what) for what in error.messages]
    return []


def _refusals(plan: Plan, environ: Mapping[str, str]) -> list[Problem]:
    """What a dry run may show and a real start may not begin."""
    found = []
    state, holder = run_status.state_of(Path(plan.output))
    if state != "free" and not run_status.is_mine(Path(plan.output), environ):
        code = "output-ending" if state == "ending" else "output-in-use"
        found.append(Problem(code, "OUTPUT_BASEPATH", holder=holder.said if holder else Message("holder-unknown")))
    limit, memory, names = plan.memory_limit, plan.memory, _too_large(plan)
    if limit is not None and plan.device == "cpu" and memory.static > limit:
        figures = {"needed": gigabytes(memory.static), "there": gigabytes(max(0, limit))}
        found.append(Problem("memory-cpu", *names, **figures, change=cheapest_change(plan)))
    if limit is not None and plan.device == "cuda" and memory.total > limit and plan.variables.memory_check:
        figures = {"needed": gigabytes(memory.total), "there": gigabytes(limit)}
        found.append(Problem("memory-gpu", *names, **figures, change=cheapest_change(plan)))
    elif plan.lacks_ram and plan.variables.memory_check:
        figures = {"needed": gigabytes(plan.ram_needed), "there": gigabytes(plan.ram_limit or 0)}
        code, names = "memory-ram", ("OPTIMIZER_OFFLOAD",)
        if plan.saved_copies:
            code, names = "memory-ram-copies", (*names, "MP_BACKGROUND_SAVE")
        found.append(Problem(code, *names, **figures, change=cheapest_change(plan)))
    return found + idxmap_problems(plan)


def _too_large(plan: Plan) -> tuple[str, ...]:
    """The values that most of the memory follows from: adapters may be larger than the model."""
    trained = plan.memory.gradients + plan.memory.optimizer
    if plan.variables.lora_rank is None or trained < plan.memory.total / 2:
        return ("MODEL_SIZE",)
    return ("MP_LORA_RANK", *(["MP_LORA_RANK_PATTERN"] if plan.variables.lora_rank_pattern else []))


def start(plan: Plan, command: Command, environ: Mapping[str, str]) -> int:
    """Write plan.json and command.txt, and become torchrun; in a cluster, stay beside it instead.

    Returns:
        2 where another run was faster, or the folder cannot be written; in a cluster 0, or 1 after a failure here or
        on another machine.
    """
    try:
        return _start(plan, command, environ)
    except run_status.Occupied as occupied:
        print(occupied.localized(), file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        why = error.strerror or error
        print(localized("output-unwritable", folder=plan.output, error=why), file=sys.stderr)
        return USAGE_ERROR


def _start(plan: Plan, command: Command, environ: Mapping[str, str]) -> int:
    raise_open_files()
    if plan.cluster is not None:
        # sockets and threads: 20 ms that one machine saves
        from megatron_patch.launch.cluster.supervise import start_node

        return start_node(plan, command, environ, record)
    lock = record(plan, command, environ)
    os.set_inheritable(lock, True)
    sys.stdout.flush()
    ours = command.environment(environ) | {run_status.INHERITED: str(lock)}
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, ASKS)  # none is lost, or a traceback, until torchrun listens
    try:
        return os.execve(command.argv[0], list(command.argv), ours)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)  # it was not to be


def record(plan: Plan, command: Command, environ: Mapping[str, str]) -> int:
    """Take the folder, unless this process holds it, and write plan.json and command.txt.

    Returns:
        The descriptor of its lock.
    Raises:
        Occupied: another run writes there; nothing was changed.
    """
    output = Path(plan.output)
    output.mkdir(parents=True, exist_ok=True)
    for line in set_misfits_aside(output):
        print(line.localized(), file=sys.stderr)
    lock = int(environ[run_status.INHERITED]) if run_status.is_mine(output, environ) else run_status.take(output)
    write_plan(output, content_of(plan))
    write_text(output / COMMAND, command.shell() + "\n")
    return lock
