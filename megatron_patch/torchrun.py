"""torchrun as it is, with a better ending: `python -m megatron_patch.torchrun` takes torchrun's own arguments.

SIGTERM, SIGINT (Ctrl-C), SIGHUP (the terminal is gone) and SIGUSR1 (Slurm's early warning) ask the ranks to finish
their step, save and end. They have GRACE seconds for that (torch.distributed.run 2.11 kills them after 30, and all
since the last save is lost); a second signal ends them at once. A signal that this process was started to ignore
(nohup, `&` in a script) stays ignored. On several machines a launcher stands before this process and passes signals
on, in one of its own (ASKS_RANKS): Ctrl-C and Slurm reach both, and mean one thing.

Exit status (`runs/recovery.py` has the policy behind it; docs/failures.md has this table too):
    0         all iterations are done
    1         a rank failed; what it said is on the screen and in logs/rank_N.log
    2         the command line is wrong, or another run writes into the folder: nothing was changed
    3         a spike ended the run (MP_ON_SPIKE)
    4         rolled back behind a spike: the same command goes on; on one machine it is started by itself
    5         a rank or a save hung for MP_DISTRIBUTED_TIMEOUT_MINUTES
    128 + N   asked to end by signal N: 129 SIGHUP, 130 SIGINT, 138 SIGUSR1, 143 SIGTERM. The checkpoint of the last
              step is there, unless the screen says that the run was ended at once; the same command goes on from it
    137       killed (SIGKILL: by the kernel, when memory runs out, or by somebody)

With MP_MAX_RESTARTS or MP_ON_SPIKE=rollback the driver leaves its own command in the environment (AGAIN): this process
becomes the driver again where the policy says so, and keeps the folder's lock meanwhile.

When a rank fails, torch.distributed.run prints its own traceback and the rank's once more, up to 150 lines below the
sentence that says what to change. Here the rank's own words stay last. And it leaves a folder `torchelastic_*` in /tmp
after each run, where ranks note how they failed: here it goes with the run, or with the next start after a SIGKILL.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

from megatron_patch.common.machine import children_of
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.parent import end_with_parent
from megatron_patch.common.terminal import guard, raw
from megatron_patch.runs import status as run_status
from megatron_patch.runs.rank_notes import folder_of_ranks
from megatron_patch.runs.recovery import Event, Failure, Status, note_event
from megatron_patch.runs.restart import AGAIN, ASKS, ASKS_RANKS, ENDS_RANKS, StepCounter, read_again, start_again
from megatron_patch.runs.watchdog import Watchdog
from megatron_patch.trainer.errors import echo_of
from megatron_patch.trainer.process import TOLD_BY_LAUNCHER

GRACE = 600.0
"""Seconds that they have for it: a step, and a checkpoint that is written."""
KILLED_AFTER = 28
"""Seconds from the first failure: torch.distributed.run 2.11 gives ranks 30 to end before it kills them, in times that
are whole seconds. Who was killed earlier was killed by somebody else."""
SWALLOWED = 3.0
"""Seconds after which a SystemExit that was raised in a signal handler has not ended this process: code that was
running caught it, or could not pass it on (a callback from C, a destructor), as in the import of torch."""
SHOW_CURSOR = "\x1b[?25h"
"""A live line hides it, and a rank that is killed cannot bring it back."""


def main(arguments: list[str]) -> int:
    """Start the ranks of this machine and wait for them.

    Returns:
        The exit status, see above.
    """
    os.environ[TOLD_BY_LAUNCHER] = "1"
    logging.disable(logging.ERROR)  # torchrun's own account of what a rank has said already
    in_cluster = os.environ.get(run_status.INHERITED, "0").isdecimal() is False
    stop = Stop()
    stop.listen(to_launcher=in_cluster)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKS)  # the driver blocked them until somebody would listen
    if in_cluster:
        end_with_parent(ASKS_RANKS)
    try:
        return _run(arguments, stop)
    finally:
        if sys.stdout.isatty():
            print(SHOW_CURSOR, end="", flush=True, file=raw(sys.stdout))


def _run(arguments: list[str], stop: Stop) -> int:
    gc.disable()  # while it imports: nothing of that is garbage
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    gc.enable()
    parsed = parse_args(arguments)
    parsed.signals_to_handle = "SIGQUIT"  # not those that `stop` listens to
    folder, is_alone = output_folder(parsed.training_script_args), parsed.nnodes in ("1", "1:1")
    try:
        lock = _take(folder, is_alone=is_alone)
    except run_status.Occupied as occupied:
        print(occupied.localized(), file=sys.stderr)
        return 2
    stop.watch(folder, lock)
    again = read_again(os.environ.pop(AGAIN, ""))
    try:
        with folder_of_ranks() as notes:
            parsed.log_dir = parsed.log_dir or str(notes)
            watchdog = _watch(notes / "heartbeats", parsed.training_script_args, is_alone=is_alone)
            start = _Start(folder=folder, watchdog=watchdog, is_alone=is_alone)
            run(parsed)
    except RuntimeError as error:  # before there are ranks, the first machine's torchrun is gone
        if is_alone or echo_of(error) is None:
            raise
        print(localized("torchrun-lost", error=error), file=sys.stderr)
        return Status.LOST
    except ChildFailedError as error:
        if stop.by_launcher:
            return Status.FAILED
        if stop.asked is not None:
            return _stopped(error.failures, stop, folder, is_alone=is_alone)
        status, failure = start.failed(error.failures)
        if folder is not None:
            start_again(again, failure, folder, lock)
        return status
    return stop.status(folder)


def _watch(folder: Path, flags: Sequence[str], *, is_alone: bool) -> Watchdog:
    folder.mkdir()
    watchdog = Watchdog(
        folder,
        flags,
        is_alone=is_alone,
        say=_say,
        kill=lambda: _kill(children_of(os.getpid()), signal.SIGKILL),
    )
    watchdog.start()
    return watchdog


def output_folder(script_arguments: Sequence[str]) -> Path | None:
    """The run's folder, from the flags of the ranks."""
    for flag, value in itertools.pairwise(script_arguments):
        if flag == "--output-dir":
            return Path(value)
    return None


def _take(folder: Path | None, *, is_alone: bool) -> int | None:
    """The lock of the run's folder, unless a launcher of ours holds it: here, or on the first of several machines."""
    inherited = os.environ.pop(run_status.INHERITED, "")
    if inherited.isdecimal():
        return int(inherited)
    if folder is None or inherited or not is_alone:
        return None
    run_status.wait_while_ending(folder, lambda line: print(line, file=sys.stderr, flush=True))
    return run_status.take(folder)


class _Start:
    """The ranks of this start, and what is known of them when they fail."""

    def __init__(self, *, folder: Path | None, watchdog: Watchdog, is_alone: bool) -> None:
        self._folder, self._watchdog, self._is_alone = folder, watchdog, is_alone
        self._progress = None if folder is None else StepCounter(folder)

    def failed(self, failures: dict[int, Any]) -> tuple[int, Failure]:
        """Say which rank failed, and note it; the exit status, and the failure as the policy wants it."""
        hung = self._watchdog.verdict
        words, status = hung or describe(failures), Status.HUNG if hung else _status(failures)
        steps = -1 if self._progress is None else self._progress.steps_done()
        if status != Status.ROLLED_BACK:
            print(words.localized(), file=sys.stderr)
        if status == Status.LOST and not self._is_alone:
            return status, Failure(status=status, iteration=steps, cause=words)  # another machine notes the cause
        if self._folder is not None:
            run_status.record_end(self._folder, "failed", words)
            if hung:
                note_event(self._folder, Event.of("hang", words, iteration=max(steps, 0)))
        failure = Failure(status=status, iteration=steps, cause=words)
        return Status.FAILED if status in (Status.NOT_AGAIN, Status.LOST) else status, failure


def _stopped(failures: dict[int, Any], stop: Stop, folder: Path | None, *, is_alone: bool) -> int:
    """The ranks were asked to end, and did not end well."""
    assert stop.asked is not None
    if not stop.at_once and any(_ended_with(failure) > 0 for failure in failures.values()):
        print(describe(failures).localized(), file=sys.stderr)  # failed on the way
        return Status.LOST if _status(failures) == Status.LOST and not is_alone else Status.FAILED
    code = "stopped-at-once" if stop.at_once else "stopped-before-training"
    cause = Message(code, signal=stop.asked.name)
    print(localized("stopped", cause=cause), file=sys.stderr)
    if folder is not None:
        run_status.record_end(folder, "stopped", cause)
    return 128 + stop.asked


def _status(failures: dict[int, Any]) -> Status:
    """The most telling of what the ranks ended with; LOST where none has a cause of its own."""
    found = {_ended_with(failure) for failure in failures.values()}
    telling = (Status.HUNG, Status.SPIKE, Status.ROLLED_BACK, Status.NOT_AGAIN)
    began = min(failure.timestamp for failure in failures.values())
    is_echo = all(_how_far(failure, began) >= _Distance.ABORTED for failure in failures.values())
    return next((status for status in telling if status in found), Status.LOST if is_echo else Status.FAILED)


class Stop:
    """What signals asked for."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.at_once = False
        self.by_launcher = False
        """The launcher of this machine ended the run, and has said why."""
        self._before_ranks = False
        """Asked before there were any: SystemExit is on its way."""
        self._folder: Path | None = None
        self._lock: int | None = None

    def listen(self, *, to_launcher: bool) -> None:
        """Hear every signal in ASKS that is not ignored, or only what a launcher before this process says."""
        launcher = os.getppid()

        def hear_alone(number: int, frame: FrameType | None) -> None:
            if os.getppid() != launcher:
                self._hear(number, frame)

        if to_launcher:
            signal.signal(ASKS_RANKS, lambda number, frame: self._hear(signal.SIGTERM, frame))
            signal.signal(ENDS_RANKS, self._end_for_launcher)
        for number in ASKS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, hear_alone if to_launcher else self._hear)
        signal.signal(signal.SIGALRM, self._end_at_once)

    def watch(self, folder: Path | None, lock: int | None) -> None:
        """From now on, note in the folder's lock that the run is ending."""
        self._folder, self._lock = folder, lock

    def status(self, folder: Path | None) -> int:
        """Of a run whose ranks all ended well."""
        if self.asked is None:
            return 0
        ended = None if folder is None else run_status.read_end(folder)
        return 0 if ended is not None and ended.how == "finished" else 128 + self.asked

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self._end_at_once(number, frame)
            return
        self.asked = signal.Signals(number)
        if self._folder is not None and self._lock is not None:
            run_status.note_stopping(self._folder, self._lock, self.asked.name)
        ranks = children_of(os.getpid())
        if not ranks:
            self._end_without_ranks()
            return
        _say(localized("stop-asked", signal=self.asked.name, seconds=GRACE))
        _kill(ranks, signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    def _end_without_ranks(self) -> None:
        """They are not started yet, so nothing is lost; or they are done, and nothing is left to do."""
        status = self.status(self._folder)
        if status:
            cause = Message("stopped-before-ranks", signal=signal.Signals(status - 128).name)
            _say(localized("stopped", cause=cause))
            if self._folder is not None:
                run_status.record_end(self._folder, "stopped", cause)
            self._before_ranks = True
            signal.setitimer(signal.ITIMER_REAL, SWALLOWED)
            sys.exit(status)

    def _end_for_launcher(self, number: int, frame: FrameType | None) -> None:
        self.by_launcher = True
        ranks = children_of(os.getpid())
        _kill(ranks, signal.SIGKILL)
        if not ranks:
            sys.exit(Status.FAILED)

    def _end_at_once(self, number: int, frame: FrameType | None) -> None:
        if self._before_ranks and self.asked is not None:
            self._end_after_swallowed(self.asked)
            return
        self.at_once = True
        if number == signal.SIGALRM:
            _say(localized("stop-forced", seconds=GRACE))
        _kill(children_of(os.getpid()), signal.SIGKILL)

    def _end_after_swallowed(self, asked: signal.Signals) -> None:
        """SystemExit did not come through; ranks may have been started meanwhile."""
        ranks = children_of(os.getpid())
        if not ranks:
            os._exit(128 + asked)
        self._before_ranks = False
        _kill(ranks, signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, GRACE)


def _kill(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _say(line: str) -> None:
    """From within a signal handler; over a live line where there is a terminal."""
    over = "\r\x1b[K" if os.isatty(2) else ""
    with contextlib.suppress(OSError):  # the terminal is gone
        os.write(2, f"{over}{line}\n".encode())


KILLED = {"SIGKILL": "rank-killed-memory", "SIGBUS": "rank-killed-bus"}
"""What is said of a signal that has a usual cause."""


def describe(failures: dict[int, Any]) -> Message:
    """Which rank failed first, and what became of it.

    Args:
        failures: torchrun's ProcessFailure of each failed rank.
    """
    began = min(failure.timestamp for failure in failures.values())
    first, failure = min(failures.items(), key=lambda item: (_how_far(item[1], began), item[1].timestamp))
    code = _ended_with(failure)
    if code >= 0:
        return Message("rank-failed-first", rank=first, status=code)
    name = signal.Signals(-code).name
    return Message(KILLED.get(name, "rank-killed"), rank=first, signal=name)


def _ended_with(failure: Any) -> int:
    """The exit status of a rank; where it noted one before it ended (`trainer/process.py:note_failure`), that one."""
    noted = failure.error_file_data.get("message")
    return int(noted.get("errorCode", failure.exitcode) if isinstance(noted, dict) else failure.exitcode)


class _Distance(IntEnum):
    """How far a rank's end is from the cause."""

    KILLED = 0
    FAILED = 1
    ABORTED = 2
    """By NCCL, as it lost another rank, or by a broken library."""
    LOST = 3
    ENDED = 4
    """By torchrun."""


def _how_far(failure: Any, began: float) -> _Distance:
    """By what became of a rank: others note that they lost it before torchrun sees its end, so times tell nothing.

    Args:
        began: when the first of them failed.
    """
    code = _ended_with(failure)
    if code == -signal.SIGTERM or (code == -signal.SIGKILL and failure.timestamp > began + KILLED_AFTER):
        return _Distance.ENDED
    if code == -signal.SIGABRT:
        return _Distance.ABORTED
    if code < 0:
        return _Distance.KILLED
    return _Distance.LOST if code == Status.LOST else _Distance.FAILED


if __name__ == "__main__":
    guard()
    sys.exit(main(sys.argv[1:]))
