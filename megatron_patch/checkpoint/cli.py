"""What the converter's command says and answers, from the command line to the exit status. torch is imported late."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from megatron_patch.checkpoint.configuration import find_configuration, own_configuration
from megatron_patch.checkpoint.contents import look_for_megatron
from megatron_patch.checkpoint.converter.job import Job, inspect, needed_bytes, precision_of
from megatron_patch.checkpoint.converter.options import Usage, parse, refusal, wording
from megatron_patch.checkpoint.converter.positions import TO_HF
from megatron_patch.checkpoint.converter.run_conversion import run_conversion, stored_precision, wrote
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats.hf_folder import open_hf_folder
from megatron_patch.checkpoint.manifest import MANIFEST, verify
from megatron_patch.checkpoint.store import free_bytes
from megatron_patch.checkpoint.verify import checkpoints_in, verify_checkpoints
from megatron_patch.common import tools
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import WorkerKilled, WorkersRefused, print_error
from megatron_patch.common.messages import Message, localized, say
from megatron_patch.common.signals import handled_by

PROBE_BYTES = 256 << 20
"""Written and removed to measure the disk."""


def main(argv: Sequence[str]) -> int:
    """Run one command.

    Returns:
        the exit status: 0 done, 1 the check or a worker failed, 2 refused.
    """
    try:
        if list(argv[:1]) == ["verify"]:
            return _verify(_folder_of(argv[1:]))
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost much beside another program
        options = parse(argv)
        try:
            job = inspect(options)
            if options.dry_run:
                _dry_run(job)
                return 0
            with _cleaning_up():
                return _run(job)
        except CheckpointError as error:
            raise refusal(error, options) from None
        except (WorkerKilled, WorkersRefused) as error:
            print_error(error, os.environ)
            return 1
    except Usage as usage:
        print(usage, file=sys.stderr if usage.status else sys.stdout)
        return usage.status


@contextmanager
def _cleaning_up() -> Iterator[None]:
    """Let a signal that ends this process, as Slurm and Kubernetes send it, remove what is half-written.

    Without it a folder of the model's size lies there until somebody converts to the same target again.
    """

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    mine = threading.current_thread() is threading.main_thread()
    numbers = [one for one in (signal.SIGTERM, signal.SIGHUP) if mine and signal.getsignal(one) is signal.SIG_DFL]
    with handled_by(end, numbers):
        yield


def _folder_of(words: Sequence[str]) -> Path:
    """What `verify` is asked to read again."""
    parser = ArgumentParser(prog="verify", description=localized("cli-verify"))
    parser.prog = "megatron-patch verify" if tools.started_as else parser.prog  # `convert verify` too
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder: Path = parser.parse_args(words).folder
    return folder


def _verify(folder: Path) -> int:
    """A converted folder by its manifest; the checkpoints of a run by their checksums."""
    started = time.monotonic()
    of_run = [] if (folder / MANIFEST).exists() else checkpoints_in(folder)
    try:
        if of_run:
            for line in verify_checkpoints(of_run):
                print(line.localized(), flush=True)
            what = Message("verify-checkpoints", count=len(of_run))
        else:
            what = Message("verify-folder", gigabytes=f"{verify(folder) / 1e9:.2f}")
    except CheckpointError as error:
        print(error.localized(), file=sys.stderr)
        return 2
    done = Message("verify-done", what=what, seconds=f"{time.monotonic() - started:.1f}")
    say("at", path=folder, what=done)
    return 0


def _dry_run(job: Job) -> None:
    options = job.options
    if job.precision is None and not options.check_only:
        from megatron_patch.checkpoint.formats.per_rank_reader import open_megatron

        assert job.iteration is not None
        job.precision = stored_precision(open_megatron(job.iteration, tied=job.model.tie_embeddings))
    how = {"direction": options.direction, "precision": job.precision or Message("its-own-precision")}
    say("convert-plan", source=options.source, target=options.target, **how)
    told = wording(named=options.named)
    for note in job.notes:
        print(f"  {told.text(note)}")
    model = job.model
    say("convert-plan-model", layers=model.num_layers, hidden=model.hidden_size, vocabulary=job.vocab_size)
    if options.check_only:
        say("convert-plan-check")
        return
    speed = measure_disk(options.target)
    say("convert-plan-bytes", bytes=job.nbytes, gigabytes=f"{job.nbytes / 1e9:.2f}")
    say("convert-plan-time", seconds=f"{job.nbytes / speed:.0f}", speed=f"{speed / 1e9:.2f}")
    needed, free = needed_bytes(job), free_bytes(options.target)
    say("convert-plan-room", needed=f"{needed / 1e9:.2f}", free=f"{free / 1e9:.2f}")


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
    told = wording(named=job.options.named)
    for note in job.notes:
        print(told.text(note), flush=True)
    if not job.options.check_only:
        print(wrote(job, run_conversion(job)).localized(), flush=True)
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
        say("at", path=megatron, what=Message("convert-own-config", origin=own.origin))
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
    return 0 if report.show(options.target) else 1
