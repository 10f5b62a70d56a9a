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
from megatron_patch.launch.cluster.place import Cluster
from megatron_patch.launch.config import RunConfig
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.inputs import (
    CorpusError,
    Tokenizer,
    TokenizerError,
    read_blend,
    read_tokenizer,
    vocab_size_of_config,
)
from megatron_patch.launch.layout import divisors
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.variables import Variables
from megatron_patch.launch.weights import EXPECTED, Weights, read_weights
from megatron_patch.models import (
    AUTO,
    ConfigError,
    ModelConfig,
    model_as_named,
    model_from_hf_config,
    model_of_size,
    sizes,
)

Step = Iterator[Problem | tuple[str, Any]]
"""What a step yields: problems, and facts as (name, value)."""

PLANNED_GPUS = 8
"""GPUs of one machine in a dry run for GPUs that are not here (MP_DEVICE=cuda), unless MP_NPROC says otherwise."""


FIRST = frozenset(
    {row.name for row in dataclasses.fields(RunConfig)}
    | {f"mp_{row.name}" for row in dataclasses.fields(Variables)}
    | {"environment", "cluster"}
)
"""Facts that there are before the first step."""
FOUND: dict[Callable[..., Step], tuple[str, ...]] = {}
"""What each step may find."""


def finds[S: Callable[..., Step]](*names: str) -> Callable[[S], S]:
    """Declare the facts that a step may find."""

    def declare(step: S) -> S:
        FOUND[step] = names
        return step

    return declare


def wanted_facts(step: Callable[..., Step]) -> tuple[str, ...]:
    """The facts that a step asks for: its keyword arguments."""
    return step.__code__.co_varnames[: step.__code__.co_kwonlyargcount]


def in_order(*steps: Callable[..., Step], known: frozenset[str] = FIRST) -> tuple[Callable[..., Step], ...]:
    """The steps, where each asks only for facts that somebody before it finds: a step that does not would never run.

    Raises:
        NameError: when the module is imported.
    """
    there = set(known)
    for step in steps:
        missing = [name for name in wanted_facts(step) if name not in there]
        if missing:
            raise NameError(f"{step.__name__} asks for {', '.join(missing)}, which no step before it finds")
        there |= set(FOUND.get(step, ()))
    return steps


def found_by(steps: tuple[Callable[..., Step], ...]) -> frozenset[str]:
    """All facts that there may be after these steps."""
    return FIRST.union(*(FOUND.get(step, ()) for step in steps))


def run_steps(steps: tuple[Callable[..., Step], ...], facts: dict[str, Any]) -> list[Problem]:
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
def find_weights(*, pretrain_checkpoint_path: str) -> Step:
    """What PRETRAIN_CHECKPOINT_PATH holds."""
    try:
        yield "weights", read_weights(pretrain_checkpoint_path)
    except (CheckpointError, OSError) as error:
        what = str(error).removeprefix(f"{pretrain_checkpoint_path}: ")
        yield Problem(names=("PRETRAIN_CHECKPOINT_PATH",), what=what, valid=EXPECTED)


@finds("model")
def find_named_model(*, model_size: str) -> Step:
    """The row of a named size."""
    if model_size != AUTO:
        yield "model", model_of_size(model_size)


@finds("model")
def find_auto_model(*, model_size: str, weights: Weights) -> Step:
    """MODEL_SIZE=auto: the architecture of the checkpoint's config.json."""
    if model_size != AUTO:
        return
    names = ("MODEL_SIZE", "PRETRAIN_CHECKPOINT_PATH")
    if weights.config is None:
        valid = f"{', '.join(sizes())}, or a checkpoint with it"
        yield Problem(names=names, what="auto needs a config.json in the checkpoint", valid=valid)
        return
    try:
        yield "model", model_from_hf_config(weights.config, AUTO, weights.origin)
    except ConfigError as error:
        for what in error.problems:
            yield Problem(names=names, what=what, valid="a model that can be trained here, or one of the named sizes")


@finds("model")
def compare_model(*, model_size: str, model: ModelConfig, weights: Weights) -> Step:
    """A named size must be the checkpoint's, which may have more vocabulary: tokens were added."""
    if model_size == AUTO or weights.config is None:
        return
    names, valid = ("MODEL_SIZE", "PRETRAIN_CHECKPOINT_PATH"), "the checkpoint's size, or auto to take what it is"
    try:
        found = model_as_named(weights.config, model_size, weights.origin)
    except ConfigError as error:
        for what in error.problems:
            yield Problem(names=names, what=what, valid=valid)
        return
    if model.vocab_size is not None:
        yield "model", dataclasses.replace(model, vocab_size=found.vocab_size)


@finds("tokenizer")
def find_tokenizer(*, mp_tokenizer_path: str | None, weights: Weights) -> Step:
    """MP_TOKENIZER_PATH, else beside the weights."""
    if mp_tokenizer_path is not None:
        try:
            yield "tokenizer", read_tokenizer(mp_tokenizer_path)
        except (TokenizerError, OSError) as error:
            yield Problem(
                names=("MP_TOKENIZER_PATH",),
                what=str(error),
                valid="folder with tokenizer.json, or a SentencePiece .model",
            )
        return
    names = ("MP_TOKENIZER_PATH", "PRETRAIN_CHECKPOINT_PATH")
    if weights.kind == "none":
        what = "without a checkpoint the tokenizer has to be named"
        yield Problem(names=names, what=what, valid="MP_TOKENIZER_PATH=folder with tokenizer.json")
        return
    wrong = ""
    for home in weights.homes:
        try:
            yield "tokenizer", read_tokenizer(home)
            return
        except (TokenizerError, OSError) as error:
            wrong = wrong or str(error)
    yield Problem(names=names, what=f"no tokenizer: {wrong}", valid="MP_TOKENIZER_PATH=folder with tokenizer.json")


@finds("vocab_size")
def find_vocabulary(*, model: ModelConfig, tokenizer: Tokenizer, weights: Weights) -> Step:
    """Rows of the embedding, before padding; the tokenizer must fit in."""
    size = model.vocab_size or vocab_size_of_config(weights.config) or tokenizer.ids
    if tokenizer.ids > size:
        what = f"the tokenizer has {tokenizer.ids} ids, the model {size} rows: {tokenizer.path}"
        valid = "a tokenizer with no more ids than the model"
        yield Problem(names=("MP_TOKENIZER_PATH", "MODEL_SIZE"), what=what, valid=valid)
        return
    yield "vocab_size", size


@finds("train_data")
def find_training_data(*, dataset_path: str, mp_dataset_type: str) -> Step:
    """What DATASET_PATH holds."""
    try:
        yield "train_data", read_blend(dataset_path, raw=mp_dataset_type == "raw")
    except (CorpusError, OSError) as error:
        yield Problem(names=("DATASET_PATH",), what=str(error), valid=_data_form(mp_dataset_type))


@finds("valid_data")
def find_validation_data(*, valid_dataset_path: str, mp_dataset_type: str) -> Step:
    """What VALID_DATASET_PATH holds; None for `none`."""
    if valid_dataset_path == "none":
        yield "valid_data", None
        return
    try:
        yield "valid_data", read_blend(valid_dataset_path, raw=mp_dataset_type == "raw")
    except (CorpusError, OSError) as error:
        yield Problem(names=("VALID_DATASET_PATH",), what=str(error), valid=f"{_data_form(mp_dataset_type)}; or none")


def _data_form(dataset_type: str) -> str:
    if dataset_type == "raw":
        return "a JSON file, several, or a blend `0.3 A 0.7 B`"
    return "a prefix of .bin and .idx, several, or a blend `0.3 A 0.7 B`"


@finds("device")
def find_device(*, environment: Environment, mp_device: str) -> Step:
    """GPUs where there are any, unless MP_DEVICE says otherwise."""
    if mp_device == "cuda" and not environment.gpus and not environment.only_plans:
        yield Problem(names=("MP_DEVICE",), what="no GPU here; cuda without one is for dry runs", valid="auto, cpu")
        return
    elsewhere = environment.elsewhere and mp_device == "auto"  # clusters are made of GPUs unless MP_DEVICE says no
    yield "device", "cuda" if mp_device == "cuda" or environment.gpus or elsewhere else "cpu"


@finds("nodes", "processes")
def find_processes(
    *, environment: Environment, cluster: Cluster | None, mp_nproc: int | None, device: str, tp: int, pp: int, cp: int
) -> Step:
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
        yield Problem(names=(name,), what=f"{len(gpus)} GPUs are visible here", valid=f"1 to {len(gpus)}")
        return
    yield "nodes", nodes
    yield "processes", processes


@finds("dp")
def find_data_parallel(*, nodes: int, processes: int, device: str, tp: int, pp: int, cp: int) -> Step:
    """What is left of the processes once the model is cut."""
    world, model = nodes * processes, tp * pp * cp
    if world % model:
        unit = "GPUs" if device == "cuda" else "processes on the CPU"
        where = f"{world} {unit}" + (f" of {nodes} machines" if nodes > 1 else "")
        what = f"TP x PP x CP = {model} does not divide the {where}"
        products = ", ".join(map(str, divisors(world)))
        yield Problem(names=("TP", "PP", "CP"), what=what, valid=f"a product of {products}, or another MP_NPROC")
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
