"""What the converter's command says and answers, from the command line to the exit status. torch is imported late."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from megatron_patch.checkpoint.configuration import find_configuration, own_configuration
from megatron_patch.checkpoint.contents import look_for_megatron
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.hf_folder import open_hf_folder
from megatron_patch.checkpoint.job import Job, inspect, needed_bytes, precision_of
from megatron_patch.checkpoint.manifest import MANIFEST, verify
from megatron_patch.checkpoint.options import Usage, parse, refusal
from megatron_patch.checkpoint.positions import TO_HF
from megatron_patch.checkpoint.run_conversion import run_conversion, stored_precision
from megatron_patch.checkpoint.store import free_bytes
from megatron_patch.checkpoint.verify import checkpoints_in, verify_checkpoints

PROBE_BYTES = 256 << 20
"""Written and removed to measure the disk."""


def main(argv: Sequence[str]) -> int:
    """Run one command.

    Returns:
        the exit status: 0 done, 1 the check failed, 2 refused.
    """
    try:
        if list(argv[:1]) == ["verify"] and len(argv) == 2:
            return _verify(Path(argv[1]))
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost much beside another program
        options = parse(argv)
        try:
            job = inspect(options)
            if options.dry_run:
                _dry_run(job)
                return 0
            return _run(job)
        except CheckpointError as error:
            raise refusal(error) from None
    except Usage as usage:
        print(usage, file=sys.stderr if usage.status else sys.stdout)
        return usage.status


def _verify(folder: Path) -> int:
    """A converted folder by its manifest; the checkpoints of a run by their checksums."""
    started = time.monotonic()
    of_run = [] if (folder / MANIFEST).exists() else checkpoints_in(folder)
    try:
        if of_run:
            for line in verify_checkpoints(of_run):
                print(line, flush=True)
            said = f"{len(of_run)} checkpoint{'s' if len(of_run) > 1 else ''}"
        else:
            said = f"{verify(folder) / 1e9:.2f} GB are as the manifest says"
    except CheckpointError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 2
    print(f"{folder}: {said} ({time.monotonic() - started:.1f} s)")
    return 0


def _dry_run(job: Job) -> None:
    options = job.options
    if job.precision is None and not options.check_only:
        from megatron_patch.checkpoint.per_rank_reader import open_megatron

        assert job.iteration is not None
        job.precision = stored_precision(open_megatron(job.iteration, tied=job.model.tie_embeddings))
    print(f"{options.source} -> {options.target} ({options.direction}, {job.precision or 'its own precision'})")
    for note in job.notes:
        print(f"  {note}")
    print(f"  layers {job.model.num_layers}, hidden {job.model.hidden_size}, vocabulary {job.vocab_size}")
    if options.check_only:
        print("  checks only: writes check.json and check.png into the target")
        return
    speed = measure_disk(options.target)
    print(f"  writes {job.nbytes:,} bytes ({job.nbytes / 1e9:.2f} GB)")
    seconds = job.nbytes / speed
    print(f"  takes about {seconds:.0f} s at the {speed / 1e9:.2f} GB/s that its disk just wrote and flushed")
    free = free_bytes(options.target)
    print(f"  needs {needed_bytes(job) / 1e9:.2f} GB of free space, {free / 1e9:.2f} GB are free")


def measure_disk(target: Path) -> float:
    """Bytes per second that the target's disk writes and flushes. A probe file is written there and removed."""
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    probe = parent / f".{target.name}.probe-{os.getpid()}"
    block = os.urandom(1 << 20)
    size = min(PROBE_BYTES, max(1 << 20, free_bytes(target) // 4))
    try:
        started = time.monotonic()
        with probe.open("wb", buffering=0) as file:
            for _ in range(size >> 20):
                file.write(block)
            os.fsync(file.fileno())
        return (size >> 20 << 20) / max(time.monotonic() - started, 1e-6)
    finally:
        probe.unlink(missing_ok=True)


def _run(job: Job) -> int:
    for note in job.notes:
        print(note, flush=True)
    if not job.options.check_only:
        seconds, gigabytes = run_conversion(job), job.nbytes / 1e9
        print(f"wrote {job.options.target}: {gigabytes:.3f} GB of weights in {seconds:.1f} s, with manifest.json")
    if job.options.check or job.options.check_only:
        return _check(job)
    return 0


def _check(job: Job) -> int:
    from megatron_patch.checkpoint.check.run import CheckRequest, check

    options, to_hf = job.options, job.options.direction == TO_HF
    megatron = job.iteration or look_for_megatron(options.target)
    if job.precision is None:  # CHECK_ONLY of mcore2hf: what the Hugging Face side has
        job.precision = precision_of(open_hf_folder(options.target, options.size))
    # Megatron's side is built from what lies with it, so that a configuration that differs is seen
    own = own_configuration(megatron)
    if own is None:
        own = find_configuration(megatron, options.hf_path or (options.target if to_hf else options.source))
        print(f"{megatron}: no configuration lies with it; taken from {own.origin}", flush=True)
    request = CheckRequest(
        hf=str(options.target if to_hf else options.source),
        megatron=str(megatron),
        megatron_config=own.config,
        megatron_origin=own.origin,
        size=options.size,
        precision=job.precision,
        tp=options.tp,
        pp=options.pp,
        allow_pickle=options.allow_pickle,
    )
    report = check(request)
    print(report.table())
    for file in report.write(options.target):
        print(f"wrote {file}")
    print(report.verdict(), flush=True)
    return 0 if report.passed else 1
