"""What MP_LORA_... and MP_FREEZE need of a model, its layout and its weights."""

from __future__ import annotations

from pathlib import Path

from megatron_patch.common.values import shown
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.layout import Layout
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import Findings, finds
from megatron_patch.launch.weights import Weights
from megatron_patch.models import ModelConfig
from megatron_patch.peft.folder import CONFIG, check_shapes, settings_of
from megatron_patch.peft.patterns import key_of, parse_pattern, typed_pattern
from megatron_patch.peft.settings import (
    ALL,
    FIXED,
    PeftError,
    freeze_problem,
    frozen_layers,
    frozen_words,
    module_name,
    parse_targets,
    shown_targets,
)
from megatron_patch.runs.folder import ADAPTER


@finds(*(f"mp_lora_{name}" for name in FIXED))
def find_first_adapter(
    *,
    mp_lora_adapter: str | None,
    mp_lora_rank: int | None,
    mp_lora_alpha: float | None,
    mp_lora_targets: str,
    mp_lora_rslora: bool,
    mp_lora_rank_pattern: str | None,
    mp_lora_alpha_pattern: str | None,
    environment: Environment,
) -> Findings:
    """An adapter that is continued is one of PEFT's, and brings its settings; what is given beside it is the same."""
    if mp_lora_adapter is None:
        return
    try:
        theirs = settings_of(Path(mp_lora_adapter))
        targets = parse_targets(mp_lora_targets)
    except PeftError as error:
        inside = Path(mp_lora_adapter) / ADAPTER
        if (inside / CONFIG).is_file():
            yield Problem("lora-adapter-inside", "MP_LORA_ADAPTER", inside=inside)
        else:
            yield Problem("lora-adapter", "MP_LORA_ADAPTER", error=str(error))
        return
    except ValueError:
        return  # an unknown target is said elsewhere
    for name, mine, other in (
        ("MP_LORA_RANK", mp_lora_rank, theirs.rank),
        ("MP_LORA_ALPHA", mp_lora_alpha, theirs.alpha),
        ("MP_LORA_TARGETS", shown_targets(targets), shown_targets(theirs.targets)),
        ("MP_LORA_RSLORA", mp_lora_rslora, theirs.rslora),
        ("MP_LORA_RANK_PATTERN", mp_lora_rank_pattern, typed_pattern(theirs.rank_pattern)),
        ("MP_LORA_ALPHA_PATTERN", mp_lora_alpha_pattern, typed_pattern(theirs.alpha_pattern)),
    ):
        if name in environment.given and mine != other:
            yield Problem("lora-adapter-differs", name, "MP_LORA_ADAPTER", folder=mp_lora_adapter, theirs=shown(other))
        yield name.lower(), other


def check_adapters(
    *,
    mp_lora_rank: int | None,
    mp_lora_targets: str,
    mp_lora_adapter: str | None,
    weights: Weights,
    tp: int,
    model: ModelConfig,
) -> Findings:
    """Known targets, a base, an adapter of this model, and whole KV heads on every rank."""
    try:
        targets = parse_targets(mp_lora_targets)
    except ValueError as error:
        yield Problem("lora-target", "MP_LORA_TARGETS", word=str(error))
        return
    if mp_lora_rank is None:
        return
    if mp_lora_adapter is not None and (Path(mp_lora_adapter) / CONFIG).is_file():
        try:
            check_shapes(Path(mp_lora_adapter), model)
        except PeftError as error:
            yield Problem("lora-adapter-model", "MP_LORA_ADAPTER", "MODEL_SIZE", error=error)
    if weights.kind == "none":
        yield Problem("lora-base", "PRETRAIN_CHECKPOINT_PATH", "MP_LORA_RANK")
    if tp > model.num_query_groups and set(targets) & {"q", "k", "v"}:
        yield Problem("lora-kv-heads", "TP", "MP_LORA_TARGETS", groups=model.num_query_groups)


def check_patterns(
    *,
    mp_lora_rank: int | None,
    mp_lora_targets: str,
    mp_lora_rank_pattern: str | None,
    mp_lora_alpha_pattern: str | None,
    model: ModelConfig,
    environment: Environment,
) -> Findings:
    """Each expression that is typed decides for an adapter of this model; an adapter_config.json may have idle ones."""
    try:
        targets = parse_targets(mp_lora_targets)
    except ValueError:
        return  # said elsewhere
    modules = [module_name(layer, target) for layer in range(model.num_layers) for target in targets]
    typed = {"MP_LORA_RANK_PATTERN": mp_lora_rank_pattern, "MP_LORA_ALPHA_PATTERN": mp_lora_alpha_pattern}
    for name, text in typed.items():
        if name not in environment.given or mp_lora_rank is None:
            continue
        pattern = parse_pattern(text)
        deciding = {key_of(pattern, module) for module in modules}
        for key, value in pattern:
            if key in deciding:
                continue
            fitting = [module for module in modules if key_of(((key, value),), module)]
            if fitting:
                yield Problem("lora-pattern-late", name, key=key, first=key_of(pattern, fitting[0]))
            else:
                yield Problem("lora-pattern-idle", name, "MP_LORA_TARGETS", key=key, example=modules[-1])


def check_adapters_asked_for(
    *,
    mp_lora_rank: int | None,
    mp_lora_alpha: float | None,
    mp_lora_dropout: float,
    mp_lora_targets: str,
    mp_lora_rslora: bool,
    mp_lora_rank_pattern: str | None,
    mp_lora_alpha_pattern: str | None,
    mp_lora_adapter: str | None,
) -> Findings:
    """Settings of adapters that nobody asked for would do nothing."""
    if mp_lora_rank is not None or mp_lora_adapter is not None:
        return
    given = {
        "ALPHA": mp_lora_alpha is not None,
        "DROPOUT": bool(mp_lora_dropout),
        "TARGETS": mp_lora_targets != ALL,
        "RSLORA": mp_lora_rslora,
        "RANK_PATTERN": mp_lora_rank_pattern is not None,
        "ALPHA_PATTERN": mp_lora_alpha_pattern is not None,
    }
    yield from (Problem("lora-without-rank", f"MP_LORA_{name}") for name, there in given.items() if there)


def check_freeze(*, do: bool, mp_freeze: str | None, mp_lora_rank: int | None, model: ModelConfig, pp: int) -> Findings:
    """Parts that the model has, whole."""
    if mp_freeze is None:
        return
    if mp_lora_rank is not None:
        yield Problem("freeze-and-lora", "MP_FREEZE", "MP_LORA_RANK")
    if (word := freeze_problem(mp_freeze, model.num_layers)) is not None:
        yield Problem("freeze-word", "MP_FREEZE", "MODEL_SIZE", word=word, last=model.num_layers - 1)
        return
    named = frozen_words(mp_freeze)
    one_only = "head" in named if "embedding" not in named else pp > 1 and "head" not in named
    if model.tie_embeddings and one_only:
        yield Problem("freeze-tied", "MP_FREEZE", "MODEL_SIZE")
    if frozen_layers(mp_freeze) and not do:
        yield Problem("freeze-needs-do", "MP_FREEZE", "DO")


def frozen_stage(text: str, layout: Layout) -> int | None:
    """The first pipeline stage of which MP_FREEZE leaves nothing to train, which no optimizer can be saved of."""
    named, frozen = frozen_words(text), frozen_layers(text)
    for stage in range(layout.pp):
        first, last = stage == 0, stage == layout.pp - 1
        ends = (first and "embedding" not in named) or (last and not {"head", "norms"} <= named)
        if frozen.issuperset(layout.layers_of(stage)) and not ends:
            return stage
    return None
