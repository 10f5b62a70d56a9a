"""The ten positions of the converter and its `--help`: one table that parsing and texts are made from."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common import tools
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.values import Kind, boolean, choice, text, whole
from megatron_patch.models import ModelConfig, default_family, families, size_kind

TO_MEGATRON, TO_HF, BETWEEN = "hf2mcore", "mcore2hf", "mcore2mcore"
DIRECTIONS = (TO_MEGATRON, TO_HF, BETWEEN)
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class ConverterPosition:
    """One of the ten."""

    name: str
    meaning: str
    """Code of the text."""
    kind: Kind
    example: str


_FOLDER = text("expect-folder")
POSITIONS = (
    ConverterPosition(
        name="MODEL_SIZE",
        meaning="convert-model-size",
        kind=size_kind(),
        example="8B",
    ),
    ConverterPosition(
        name="SOURCE_CKPT_PATH",
        meaning="convert-source",
        kind=_FOLDER,
        example="/mnt/llama3-ckpts/Meta-Llama-3.1-8B",
    ),
    ConverterPosition(
        name="TARGET_CKPT_PATH",
        meaning="convert-target",
        kind=_FOLDER,
        example="/mnt/llama3-ckpts/Meta-Llama-3.1-8B/mcore-tp4-pp2",
    ),
    ConverterPosition(
        name="TP",
        meaning="convert-tp",
        kind=whole(1),
        example="4",
    ),
    ConverterPosition(
        name="PP",
        meaning="convert-pp",
        kind=whole(1),
        example="2",
    ),
    ConverterPosition(name="mg2hf", meaning="convert-mg2hf", kind=boolean(), example="false"),
    ConverterPosition(
        name="CHECK",
        meaning="convert-check",
        kind=boolean(),
        example="true",
    ),
    ConverterPosition(name="CHECK_ONLY", meaning="convert-check-only", kind=boolean(), example="false"),
    ConverterPosition(
        name="PR",
        meaning="convert-precision",
        kind=choice(*PRECISIONS),
        example="bf16",
    ),
    ConverterPosition(
        name="HF_CKPT_PATH",
        meaning="convert-hf-path",
        kind=_FOLDER,
        example="/mnt/llama3-ckpts/Meta-Llama-3.1-8B",
    ),
)


def list_text() -> str:
    """The models and sizes that are supported."""
    lines = []
    for family in families().values():
        lines.append(f"{family.name}  ({family.architecture})")
        lines += [f"  {model.name:5} {_numbers(model)}" for model in family.sizes.values()]
    types = list(dict.fromkeys(family.model_type for family in families().values()))
    return "\n".join([*lines, f"  auto  {localized('convert-list-auto', types=types)}"])


def _numbers(model: ModelConfig) -> str:
    parameters = Message("convert-list-vocabulary")
    if model.vocab_size:
        parameters = Message("convert-list-parameters", billions=f"{model.num_parameters() / 1e9:8.2f}")
    facts = {"heads": model.num_attention_heads, "groups": model.num_query_groups}
    size = Message("convert-list-size", layers=model.num_layers, hidden=model.hidden_size, **facts)
    if model.tie_embeddings:
        size = Message("convert-list-tied", size=size)
    return f"{parameters.localized()}  {size.localized()}"


def help_text(family: str | None = None) -> str:
    """The table of positions and the flags.

    Args:
        family: whose script is running.
    """
    script = tools.started_as or f"hf2mcore_convertor_{family or default_family().name}.sh"
    rows = [
        f"  {number:2} {position.name:17} {localized(position.meaning)}\n     {'':17} "
        + localized("convert-position", valid=position.kind.expects, example=position.example)
        for number, position in enumerate(POSITIONS, 1)
    ]
    return localized("convert-help", script=script, positions=rows)
