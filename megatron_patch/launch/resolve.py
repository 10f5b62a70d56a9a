"""From typed values to facts: what the paths hold, which model it is, how many processes there are.

The first facts are those of `config.py` and `environment.py`. Each function here names the facts that it needs as
keyword arguments (`mp_...` are the MP_* variables), and runs only if all of them could be had: one wrong value hides
no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, at
from megatron_patch.launch.cluster.place import Cluster
from megatron_patch.launch.config import RunConfig
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.inputs import (
    CorpusError,
    Tokenizer,
    UnusableTokenizer,
    read_blend,
    read_tokenizer,
    vocab_size_of_config,
)
from megatron_patch.launch.layout import divisors
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.variables import Variables
from megatron_patch.launch.weights import Weights, read_weights
from megatron_patch.models import (
    AUTO,
    ConfigError,
    ModelConfig,
    disagreement,
    model_from_hf_config,
    model_of_size,
    size_names,
)

Findings = Iterator[Problem | tuple[str, Any]]
"""What a step yields: problems, and facts as (name, value)."""

PLANNED_GPUS = 8
"""GPUs of one machine in a dry run for GPUs that are not here (MP_DEVICE=cuda), unless MP_NPROC says otherwise."""


FIRST = frozenset(
    {row.name for row in dataclasses.fields(RunConfig)}
    | {f"mp_{row.name}" for row in dataclasses.fields(Variables)}
    | {"environment", "cluster", "epochs", "vp_counts_chunks"}
)
"""Facts that there are before the first step."""
FOUND: dict[Callable[..., Findings], tuple[str, ...]] = {}
"""What each step may find."""


def finds[S: Callable[..., Findings]](*names: str) -> Callable[[S], S]:
    """Declare the facts that a step may find."""

    def declare(step: S) -> S:
        FOUND[step] = names
        return step

    return declare


def wanted_facts(step: Callable[..., Findings]) -> tuple[str, ...]:
    """The facts that a step asks for: its keyword arguments."""
    return step.__code__.co_varnames[: step.__code__.co_kwonlyargcount]


def in_order(*steps: Callable[..., Findings], known: frozenset[str] = FIRST) -> tuple[Callable[..., Findings], ...]:
    """The steps, where each asks only for facts that somebody before it finds: a step that does not would never run.

    Raises:
        NameError: when the module is imported; also where a step stands there twice, and would tell problems twice.
    """
    there = set(known)
    if twice := [step.__name__ for step in steps if steps.count(step) > 1]:
        raise NameError(f"{twice[0]} stands there twice")
    for step in steps:
        missing = [name for name in wanted_facts(step) if name not in there]
        if missing:
            raise NameError(f"{step.__name__} asks for {', '.join(missing)}, which no step before it finds")
        there |= set(FOUND.get(step, ()))
    return steps


def found_by(steps: tuple[Callable[..., Findings], ...]) -> frozenset[str]:
    """All facts that there may be after these steps."""
    return FIRST.union(*(FOUND.get(step, ()) for step in steps))


def run_steps(steps: tuple[Callable[..., Findings], ...], facts: dict[str, Any]) -> list[Problem]:
    """Run each step whose facts are there; put what it finds into `facts`.

    Returns:
        All problems, in the order of the steps.
    """
    problems = []
    for step in steps:
        wanted = wanted_facts(step)
        if any(name not in facts for name in wanted):
            continue
        for found in step(**{name: facts[name] for name in wanted}):
            if isinstance(found, Problem):
                problems.append(found)
            elif found[0] in FOUND.get(step, ()):
                facts[found[0]] = found[1]
            else:
                raise NameError(f"{step.__name__} finds {found[0]}, which it does not declare")
    return problems


@finds("weights")
def find_weights(*, pretrain_checkpoint_path: str) -> Findings:
    """What PRETRAIN_CHECKPOINT_PATH holds."""
    try:
        yield "weights", read_weights(pretrain_checkpoint_path)
    except (CheckpointError, OSError) as error:
        yield from _problems(error, "PRETRAIN_CHECKPOINT_PATH", expected="expect-weights")


SIZE_AND_WEIGHTS = ("MODEL_SIZE", "PRETRAIN_CHECKPOINT_PATH")


@finds("model")
def find_named_model(*, model_size: str) -> Findings:
    """The row of a named size."""
    if model_size != AUTO:
        yield "model", model_of_size(model_size)


@finds("model")
def find_auto_model(*, model_size: str, weights: Weights) -> Findings:
    """MODEL_SIZE=auto: the architecture of the checkpoint's config.json."""
    if model_size != AUTO:
        return
    if weights.config is None:
        yield Problem("auto-needs-config", *SIZE_AND_WEIGHTS, sizes=[name for name in size_names() if name != AUTO])
        return
    try:
        yield "model", model_from_hf_config(weights.config, AUTO, weights.origin)
    except ConfigError as error:
        yield from (Problem("config-refused", *SIZE_AND_WEIGHTS, what=what) for what in error.messages)


@finds("model")
def compare_model(*, model_size: str, model: ModelConfig, weights: Weights) -> Findings:
    """A named size must be the checkpoint's, which may have more vocabulary: tokens were added."""
    if model_size == AUTO or weights.config is None:
        return
    try:
        found = model_from_hf_config(weights.config, model_size, weights.origin)
    except ConfigError as error:  # which auto refuses too
        yield from (Problem("config-refused", *SIZE_AND_WEIGHTS, what=what) for what in error.messages)
        return
    problem = disagreement(found, model)
    if problem is not None:
        yield Problem("size-is-another", *SIZE_AND_WEIGHTS, what=at(weights.origin, problem))
    elif model.vocab_size is not None:
        yield "model", dataclasses.replace(model, vocab_size=found.vocab_size)


@finds("tokenizer")
def find_tokenizer(*, mp_tokenizer_path: str | None, weights: Weights) -> Findings:
    """MP_TOKENIZER_PATH, else beside the weights."""
    if mp_tokenizer_path is not None:
        try:
            yield "tokenizer", read_tokenizer(mp_tokenizer_path)
        except (UnusableTokenizer, OSError) as error:
            yield from _problems(error, "MP_TOKENIZER_PATH", expected="expect-tokenizer")
        return
    names = ("MP_TOKENIZER_PATH", "PRETRAIN_CHECKPOINT_PATH")
    if weights.kind == "none":
        yield Problem("tokenizer-not-named", *names)
        return
    wrong: Exception | None = None
    for home in weights.homes:
        try:
            yield "tokenizer", read_tokenizer(home)
            return
        except (UnusableTokenizer, OSError) as error:
            wrong = wrong or error
    yield Problem("tokenizer-none", *names, error=wrong.messages if isinstance(wrong, UserError) else wrong)


@finds("vocab_size")
def find_vocabulary(*, model: ModelConfig, tokenizer: Tokenizer, weights: Weights) -> Findings:
    """Rows of the embedding, before padding; the tokenizer must fit in."""
    size = model.vocab_size or vocab_size_of_config(weights.config) or tokenizer.ids
    if tokenizer.ids > size:
        values = {"ids": tokenizer.ids, "rows": size, "path": tokenizer.path}
        yield Problem("tokenizer-too-large", "MP_TOKENIZER_PATH", "MODEL_SIZE", **values)
        return
    yield "vocab_size", size


@finds("train_data")
def find_training_data(*, dataset_path: str, mp_dataset_type: str) -> Findings:
    """What DATASET_PATH holds."""
    try:
        yield "train_data", read_blend(dataset_path, raw=mp_dataset_type == "raw")
    except (CorpusError, OSError) as error:
        expected = "expect-raw" if mp_dataset_type == "raw" else "expect-idxmap"
        yield from _problems(error, "DATASET_PATH", expected=expected)


@finds("valid_data")
def find_validation_data(*, valid_dataset_path: str, mp_dataset_type: str) -> Findings:
    """What VALID_DATASET_PATH holds; None for `none`."""
    if valid_dataset_path == "none":
        yield "valid_data", None
        return
    try:
        yield "valid_data", read_blend(valid_dataset_path, raw=mp_dataset_type == "raw")
    except (CorpusError, OSError) as error:
        expected = "expect-raw-or-none" if mp_dataset_type == "raw" else "expect-idxmap-or-none"
        yield from _problems(error, "VALID_DATASET_PATH", expected=expected)


def _problems(error: Exception, name: str, *, expected: str) -> list[Problem]:
    """What a reader says, or the system beneath it."""
    if not isinstance(error, UserError):
        return [Problem("uncoded", name, text=error, expected=Message(expected))]
    return Problem.of(error, name, expected=Message(expected))


@finds("device")
def find_device(*, environment: Environment, mp_device: str) -> Findings:
    """GPUs where there are any, unless MP_DEVICE says otherwise."""
    if mp_device == "cuda" and not environment.gpus and not environment.only_plans:
        yield Problem("no-gpu", "MP_DEVICE")
        return
    elsewhere = environment.elsewhere and mp_device == "auto"  # clusters are made of GPUs unless MP_DEVICE says no
    yield "device", "cuda" if mp_device == "cuda" or environment.gpus or elsewhere else "cpu"


@finds("nodes", "processes")
def find_processes(
    *, environment: Environment, cluster: Cluster | None, mp_nproc: int | None, device: str, tp: int, pp: int, cp: int
) -> Findings:
    """Machines, and processes of each."""
    gpus = environment.gpus
    nodes = cluster.nodes if cluster else 1
    if mp_nproc is not None:
        processes = mp_nproc
    elif cluster is not None and cluster.gpus_per_node is not None:
        processes = cluster.gpus_per_node
    elif device == "cuda":
        processes = len(gpus) or PLANNED_GPUS
    else:
        processes = tp * pp * cp
    if gpus and processes > len(gpus) and not environment.only_plans:
        name = "MP_NPROC" if mp_nproc is not None or cluster is None else cluster.gpus_said_by
        yield Problem("too-many-processes", name, gpus=len(gpus))
        return
    yield "nodes", nodes
    yield "processes", processes


ON_CPU = {
    "ranks-not-divisible": "ranks-not-divisible-cpu",
    "ranks-not-divisible-nodes": "ranks-not-divisible-nodes-cpu",
}
"""Processes in the place of GPUs."""


@finds("dp")
def find_data_parallel(*, nodes: int, processes: int, device: str, tp: int, pp: int, cp: int) -> Findings:
    """What is left of the processes once the model is cut."""
    world, model = nodes * processes, tp * pp * cp
    if world % model:
        code = "ranks-not-divisible-nodes" if nodes > 1 else "ranks-not-divisible"
        code = code if device == "cuda" else ON_CPU[code]
        values = {"product": model, "world": world, "fits": divisors(world)} | ({"nodes": nodes} if nodes > 1 else {})
        yield Problem(code, "TP", "PP", "CP", **values)
        return
    yield "dp", world // model


STEPS = in_order(
    find_weights,
    find_named_model,
    find_auto_model,
    compare_model,
    find_tokenizer,
    find_vocabulary,
    find_training_data,
    find_validation_data,
    find_device,
    find_processes,
    find_data_parallel,
)
