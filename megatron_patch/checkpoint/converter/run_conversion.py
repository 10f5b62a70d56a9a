"""The conversion as it runs, its source held against its manifest meanwhile. torch is imported late."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_patch.checkpoint.converter.job import AS_TYPED, Job, cast_notes, space_problems, vocab_alignment
from megatron_patch.checkpoint.converter.positions import TO_HF
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.manifest import Verification, default_workers, read_manifest
from megatron_patch.checkpoint.store import check_target
from megatron_patch.common.messages import Message, at, say
from megatron_patch.common.progress import WorkBar
from megatron_patch.common.spread import Relay

if TYPE_CHECKING:
    from megatron_patch.checkpoint.converter.conversion import Conversion
    from megatron_patch.checkpoint.formats.sources import MegatronReader


def run_conversion(job: Job) -> float:
    """Write the target, and hold the source against its manifest: a flipped bit would come along unseen.

    Returns:
        seconds it took, imports left out.
    Raises:
        CheckpointError: the source is damaged, or is of another model; nothing was written.
    """
    with _verification(job) as verification:
        try:
            seconds = _convert(job, verification)
        except CheckpointError:
            verification.finish()  # what is damaged explains what the conversion stumbled over
            raise
        if verified := verification.finish():
            say("at", path=verification.folder, what=Message("convert-verified", gigabytes=f"{verified / 1e9:.3f}"))
    return seconds


def wrote(job: Job, seconds: float) -> Message:
    """What is said when a job is done."""
    facts = {"gigabytes": f"{job.nbytes / 1e9:.3f}", "seconds": f"{seconds:.1f}"}
    return Message("convert-wrote", target=job.options.target, **facts)


def _verification(job: Job) -> Verification:
    near = [job.options.source, *([job.iteration.parent] if job.iteration else [])]
    manifests = ((folder, manifest) for folder in near if (manifest := read_manifest(folder)) is not None)
    folder, manifest = next(manifests, (None, None))
    if folder is not None and not job.options.verify:
        say("at", path=folder, what=Message("convert-unverified"))
        folder = None
    return Verification(folder, job.options.workers, manifest)


def _convert(job: Job, verification: Verification) -> float:
    import torch

    from megatron_patch.checkpoint.converter.conversion import Conversion
    from megatron_patch.checkpoint.formats.per_rank_reader import open_megatron

    torch.set_num_threads(1)  # the workers are the parallelism
    before = _stamps(job)

    def before_publishing() -> None:
        verification.finish()
        _see_unchanged(job, before)
        _see_target_free(job)

    reader = open_megatron(job.iteration, tied=job.model.tie_embeddings) if job.iteration else None
    conversion = Conversion(
        model=job.model,
        vocab_size=job.vocab_size,
        precision=_settle_precision(job, reader),
        workers=job.options.workers or default_workers(),
        vocab_alignment=vocab_alignment(job.options),
        before_publishing=before_publishing,
    )
    begin = Relay(verification.begin)
    started = time.monotonic()
    if reader is not None:
        reader.files.on_open = begin
        _say_notes(reader, conversion)
    elif job.folder is not None:
        job.folder.files.on_open = begin
    with WorkBar("bar-writing", job.nbytes) as bar:
        _write(job, conversion, reader, Relay(bar.advance))
    return time.monotonic() - started


def _stamps(job: Job) -> dict[Path, tuple[int, int]]:
    """Bytes and last change of each file that holds weights, of those that are there."""
    files: set[Path] = set(job.iteration.rglob("*")) if job.iteration is not None else set()
    if job.folder is not None:
        files |= {*job.folder.pickles, *(entry.file for entry in job.folder.tensors.values())}
    found = {file: file.stat() for file in files if file.is_file()}
    return {file: (one.st_size, one.st_mtime_ns) for file, one in found.items()}


def _see_unchanged(job: Job, before: dict[Path, tuple[int, int]]) -> None:
    """What a download that is not done has written to meanwhile is read in two states.

    Raises:
        CheckpointError: one line for each file that is not as it was.
    """
    after = _stamps(job)
    changed = sorted(file for file in before if after.get(file) != before[file])
    if changed:
        raise CheckpointError.of([at(file, "source-changed") for file in changed])


def _see_target_free(job: Job) -> None:
    """Another command may have written the same folder meanwhile: only --overwrite replaces it.

    Raises:
        CheckpointError: it is not as it may be.
    """
    if problems := check_target(job.options.target, overwrite=job.options.overwrite, sources=[]):
        raise CheckpointError.of(problems)


def _settle_precision(job: Job, reader: MegatronReader | None) -> str:
    """The job's, or that of the weights; only then can it be known whether the disk has room."""
    if job.precision is None:
        assert reader is not None
        job.precision = stored_precision(reader)
        if problems := space_problems(job):
            raise CheckpointError.of(problems)
    return job.precision


def stored_precision(reader: MegatronReader) -> str:
    """fp32, fp16 or bf16, as the weights of a Megatron checkpoint are.

    Raises:
        CheckpointError: it has no embedding.
    """
    name = "embedding.word_embeddings.weight"
    if name not in reader.shapes:
        raise CheckpointError.at(reader.folder, "tensor-missing", tensor=name)
    return AS_TYPED[reader.element_type(name)]


def _say_notes(reader: MegatronReader, conversion: Conversion) -> None:
    from megatron_patch.checkpoint.converter.convert import check_megatron_shapes

    types = sorted({reader.element_type(name) for name in reader.shapes})
    for note in [*check_megatron_shapes(reader, conversion), *cast_notes(types, conversion.precision)]:
        print(note.localized(), flush=True)


def _write(job: Job, conversion: Conversion, reader: MegatronReader | None, advance: Callable[[int], None]) -> None:
    from megatron_patch.checkpoint.converter.convert import hf_side, megatron_side, to_hf, to_megatron, to_per_rank

    options = job.options
    if reader is not None:
        assert job.configuration is not None
        if options.direction == TO_HF:
            to_hf(reader, job.configuration, options.target, conversion, advance, options.max_shard_size)
            return
        side = megatron_side(reader, job.configuration, conversion)
    else:
        assert job.folder is not None
        side = hf_side(job.folder, conversion)
    if options.per_rank_files:
        to_per_rank(side, options.target, conversion, options.tp, options.pp, advance)
    else:
        to_megatron(side, options.target, conversion, advance)
