"""What a conversion will do, found out before the first byte is written. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from megatron_patch.checkpoint.configuration import Configuration, find_configuration, own_configuration
from megatron_patch.checkpoint.contents import is_per_rank, look_for_megatron
from megatron_patch.checkpoint.converter.options import Options
from megatron_patch.checkpoint.converter.positions import BETWEEN, TO_MEGATRON
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats.hf_folder import (
    DTYPES,
    SAFETENSORS_DTYPES,
    HFFolder,
    model_of,
    open_hf_folder,
)
from megatron_patch.checkpoint.formats.safetensors_io import ITEM_SIZES
from megatron_patch.checkpoint.layout import layout_problems
from megatron_patch.checkpoint.store import check_target, free_bytes
from megatron_patch.common.messages import Message, at
from megatron_patch.models import AUTO, VOCAB_ALIGNMENT, ModelConfig, padded_vocab_size, unlike
from megatron_patch.peft.base import FILE as LORA

AS_TYPED = {name: precision for precision, name in SAFETENSORS_DTYPES.items()}
"""PR as typed, by safetensors' spelling of the element type."""


@dataclass(kw_only=True)
class Job:
    """Everything that is known before the first byte is written."""

    options: Options
    model: ModelConfig
    precision: str | None
    """fp32, fp16 or bf16; None until the Megatron checkpoint is opened that is to keep its own."""
    numel: int
    """Elements of weights that will be written."""
    folder: HFFolder | None = None
    """hf2mcore: the source."""
    iteration: Path | None = None
    """A Megatron source: the folder of weights."""
    configuration: Configuration | None = None
    """A Megatron source: config.json and tokenizer."""
    notes: list[Message] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Of weights that will be written."""
        assert self.precision is not None
        return self.numel * ITEM_SIZES[SAFETENSORS_DTYPES[self.precision]]

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, unpadded."""
        assert self.model.vocab_size is not None
        return self.model.vocab_size


def inspect(options: Options) -> Job:
    """Look at both folders without reading weights.

    Raises:
        CheckpointError: with every reason found why the command cannot run.
    """
    job = _inspect_hf(options) if options.direction == TO_MEGATRON else _inspect_megatron(options)
    checks = options.check or options.check_only
    uses_layout = checks or options.per_rank_files
    problems = layout_problems(job.model, options.tp, options.pp) if uses_layout else []
    if checks and job.iteration is not None and is_per_rank(job.iteration):
        problems.append(at(job.iteration, "check-per-rank", direction=BETWEEN))
    if options.check_only:
        if not options.target.is_dir():
            problems.append(at(options.target, "check-no-folder"))
    else:
        problems += check_target(options.target, overwrite=options.overwrite, sources=[options.source])
        problems += space_problems(job) if job.precision is not None else []
    if problems:
        raise CheckpointError.of(problems)
    return job


def space_problems(job: Job) -> list[Message]:
    """That the target's disk is too small; empty if it is not. The precision must be known: fp32 takes twice bf16."""
    target, needed, free = job.options.target, needed_bytes(job), free_bytes(job.options.target)
    if free >= needed:
        return []
    return [at(target, "target-no-room", needed=f"{needed / 1e9:.2f}", free=f"{free / 1e9:.2f}")]


def needed_bytes(job: Job) -> int:
    """Free space that a conversion needs: the weights, and a little for the rest."""
    return job.nbytes + job.nbytes // 200 + (16 << 20)


def _inspect_hf(options: Options) -> Job:
    folder = open_hf_folder(options.source, options.size, allow_pickle=options.allow_pickle)
    if options.hf_path is not None:
        folder.notes.append(Message("hf-path-not-used"))
    types = sorted({entry.dtype for entry in folder.tensors.values()})
    precision = options.precision or precision_of(folder)
    notes = [*folder.notes, *cast_notes(types, precision)]
    alignment = vocab_alignment(options)
    padding = padded_vocab_size(folder.vocab_size, alignment) - folder.vocab_size
    if padding:
        what = Message("padded-for-tp", tp=options.tp) if options.per_rank_files else Message("padded-for-all")
        notes.append(Message("vocabulary-padded", vocabulary=folder.vocab_size, rows=padding, what=what))
    numel = folder.model.num_parameters(padded_vocab_size(folder.vocab_size, alignment))
    return Job(options=options, model=folder.model, precision=precision, numel=numel, folder=folder, notes=notes)


def vocab_alignment(options: Options) -> int:
    """What the vocabulary is padded to a multiple of; the old format needs what Megatron computes by itself."""
    return VOCAB_ALIGNMENT * options.tp if options.per_rank_files else VOCAB_ALIGNMENT


def precision_of(folder: HFFolder) -> str:
    """The precision that a folder's weights have.

    Raises:
        CheckpointError: they are mixed, or pickled, and config.json does not say it.
    """
    types = sorted({entry.dtype for entry in folder.tensors.values()})
    if len(types) == 1:
        return AS_TYPED[types[0]]
    said = folder.config.get("torch_dtype") or folder.config.get("dtype")
    by_config = next((name for name, spelled in DTYPES.items() if spelled == said), None)
    if by_config is None:
        kinds = types or Message("weights-unknown-types")
        raise CheckpointError.at(folder.path, "weights-precision", types=kinds, said=str(said))
    return by_config


def cast_notes(types: list[str], precision: str) -> list[Message]:
    """What a change of the element type does to the weights, one line for each type found."""
    target = SAFETENSORS_DTYPES[precision]
    code = "cast-exact" if target == "F32" else "cast-rounded"
    return [Message(code, found=found, target=target) for found in types if found != target]


def _inspect_megatron(options: Options) -> Job:
    iteration = look_for_megatron(options.source, options.iteration)
    if (iteration.parent / LORA).is_file():
        raise CheckpointError.at(iteration, "checkpoint-adapters")
    configuration = find_configuration(iteration, options.hf_path, called=options.hf_path_called)
    model = model_of(configuration.config, configuration.origin, options.size)
    own = own_configuration(iteration, options.hf_path_called) if options.hf_path is not None else None
    if own is not None:
        both = {"one": configuration.origin, "other": own.origin}
        fields = unlike(model, model_of(own.config, own.origin, AUTO))
        differ = [Message("configurations-differ", **both, field=name, mine=a, theirs=b) for name, a, b in fields]
        if differ:
            raise CheckpointError.of(differ)
    assert model.vocab_size is not None
    rows = model.vocab_size
    if options.direction == BETWEEN:
        rows = padded_vocab_size(rows, vocab_alignment(options))
    return Job(
        options=options,
        model=model,
        precision=options.precision,
        numel=model.num_parameters(rows),
        iteration=iteration,
        configuration=configuration,
        notes=[Message("convert-reading", iteration=iteration, origin=configuration.origin)],
    )
