"""The ten positions of the converter and its `--help`: one table that parsing and texts are made from."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common.values import Kind, boolean, choice, text, whole
from megatron_patch.models import default_family, families, size_kind

TO_MEGATRON, TO_HF, BETWEEN = "hf2mcore", "mcore2hf", "mcore2mcore"
DIRECTIONS = (TO_MEGATRON, TO_HF, BETWEEN)
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class Position:
    """One of the ten."""

    name: str
    meaning: str
    kind: Kind
    example: str


_FOLDER = text("a folder")
POSITIONS = (
    Position(
        name="MODEL_SIZE",
        meaning="size of the model; auto takes what config.json says",
        kind=size_kind(),
        example="8B",
    ),
    Position(
        name="SOURCE_CKPT_PATH",
        meaning="what is converted: a Hugging Face folder, or for mg2hf a Megatron one",
        kind=_FOLDER,
        example="/mnt/llama3-ckpts/Meta-Llama-3.1-8B",
    ),
    Position(
        name="TARGET_CKPT_PATH",
        meaning="the folder that is written",
        kind=_FOLDER,
        example="/mnt/llama3-ckpts/Meta-Llama-3.1-8B/mcore-tp4-pp2",
    ),
    Position(
        name="TP",
        meaning="tensor parallel size that the check loads it with (the files fit every one)",
        kind=whole(1),
        example="4",
    ),
    Position(
        name="PP",
        meaning="pipeline parallel size that the check loads it with (the files fit every one)",
        kind=whole(1),
        example="2",
    ),
    Position(
        name="mg2hf", meaning="true: Megatron to Hugging Face; false: the other way", kind=boolean(), example="false"
    ),
    Position(
        name="CHECK",
        meaning="compare both models layer by layer after the conversion",
        kind=boolean(),
        example="true",
    ),
    Position(
        name="CHECK_ONLY", meaning="compare them, convert nothing: both folders exist", kind=boolean(), example="false"
    ),
    Position(
        name="PR",
        meaning="precision of what is written",
        kind=choice(*PRECISIONS),
        example="bf16",
    ),
    Position(
        name="HF_CKPT_PATH",
        meaning="optional, for mg2hf: where config.json and tokenizer come from; else from beside the source",
        kind=_FOLDER,
        example="/mnt/llama3-ckpts/Meta-Llama-3.1-8B",
    ),
)


def list_text() -> str:
    """The models and sizes that are supported."""
    lines = []
    for family in families().values():
        lines.append(f"{family.name}  ({family.architecture})")
        for model in family.sizes.values():
            vocab = model.vocab_size
            parameters = (
                f"{model.num_parameters() / 1e9:8.2f} B parameters" if vocab else "  vocabulary of its tokenizer"
            )
            lines.append(
                f"  {model.name:5} {parameters}  {model.num_layers} layers, hidden {model.hidden_size}, "
                f"{model.num_attention_heads} heads, {model.num_query_groups} KV heads"
                f"{', tied embeddings' if model.tie_embeddings else ''}"
            )
    types = ", ".join(dict.fromkeys(family.model_type for family in families().values()))
    return "\n".join([*lines, f"  auto  any model_type of {types} whose config.json says what Megatron can do"])


def help_text(family: str | None = None) -> str:
    """The table of positions and the flags.

    Args:
        family: whose script is running.
    """
    script = f"hf2mcore_convertor_{family or default_family().name}.sh"
    rows = [
        f"  {n:2} {p.name:17} {p.meaning}\n     {'':17} valid: {p.kind.valid}; example: {p.example}"
        for n, p in enumerate(POSITIONS, 1)
    ]
    return "\n".join(
        [
            "Converts a model between Hugging Face and Megatron-Core, streamed, and checks it layer by layer.",
            "",
            f"usage: {script} POSITIONS 1-9 [HF_CKPT_PATH] [flags]",
            f"       {script} --source DIR --output-path DIR [flags]",
            f"       {script} list            the models and sizes",
            f"       {script} verify DIR      hold a folder against its SHA-256 manifest",
            "",
            *rows,
            "",
            "flags, after the positions or instead of them:",
            "  --source DIR  --output-path DIR  --model-name SIZE  --tp N  --pp N",
            "  --direction hf2mcore|mcore2hf|mcore2mcore",
            "  --check  --check-only  --precision PR  --hf-path DIR",
            "                          the positions, named; left out, SIZE is auto, PR and direction are the source's",
            "  --overwrite             replace the target, in one step, when everything is written",
            "  --dry-run               say bytes, time and space; write nothing (DRY_RUN=1 too)",
            "  --iteration N           a Megatron source: another iteration than the newest",
            "  --max-shard-size 5GB    mcore2hf: most bytes of a safetensors file",
            "  --workers N             threads; each holds 64 MiB",
            "  --no-verify             do not hold the source against its manifest",
            "  --allow-pickle          read pytorch_model*.bin, with torch's weights_only loader",
            "  --per-rank-files        write Megatron's old format, mp_rank_XX_YYY/model_optim_rng.pt, for this TP and",
            "                          PP alone, with Transformer Engine's names. To read it needs no flag: mcore2hf,",
            "                          or mcore2mcore for a checkpoint that every TP and PP loads",
            "",
            "exit status: 0 done; 1 the check found an error beyond the tolerance; 2 nothing was written, and why",
        ]
    )
