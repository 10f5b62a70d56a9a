"""How fast conversion is, against a plain copy of the same bytes in the same run, and how much memory it takes.

    python benchmarks/convert.py [1B|8B|...] [--folder DIR] [--rounds 3] [--layers N] [--warm] [--workers N ...]

Makes a Hugging Face checkpoint of the architecture with random weights (no hub), then in turn: `cp -r` and `sync`; to
Megatron; back to Hugging Face. Copy and conversions start after a `sync`, with the source on the disk and not in the
page cache, as a large model's is; --warm reads it into the page cache before each step. One process imports, each
conversion is a fork of it: wall and CPU time are of the command's work, from the parsed command line to what is flushed
to the disk. Anonymous memory is sampled every 5 ms and is what lies above the process when its imports are done. CPU
seconds hardly depend on what else the machine does; wall seconds do.

--against TREE measures another checkout in turn with this one. --trace does each conversion once more and shows where
the threads of its first process were, and in time how many cores all its processes used. --touch GB writes and frees as
much of the folder first: a virtual machine may get its memory only when it is first written to, which takes longer than
the conversion. On many cores `cp` is no measure, being one process: --plain has as many processes as workers read, hash
and write the same bytes and do nothing else (plain_copy.py), which is what the cores and the memory allow.

--set NAME=VALUE[,NAME=VALUE] changes constants of this checkout, to see what others would do: what a thread holds
(sources.CHUNK_BYTES=4194304), threads of a process (spread.THREADS_EACH=8). Each further --set is measured in turn with
the first; `--set ""` leaves all as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.core_samples import CoreSamples, family_of
from megatron_patch.checkpoint.manifest import default_workers
from megatron_patch.checkpoint.random_model import make_hf_checkpoint
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.models import AUTO, model_of_size, size_names

ROOT = Path(__file__).resolve().parents[1]
SERVER = """
import json, os, sys, time
benchmarks, tree, *settings = sys.argv[1:]
sys.path[:0] = [tree, benchmarks]
began = time.monotonic()
import torch
import thread_samples
from megatron_patch.checkpoint import cli
from megatron_patch.checkpoint.converter import convert
from megatron_patch.checkpoint import manifest, store
from megatron_patch.checkpoint.formats import hf_writer, sources, torch_dist
from megatron_patch.common import spread
for setting in settings:
    name, value = setting.split("=")
    module, constant = name.split(".")
    assert hasattr(globals()[module], constant), name
    setattr(globals()[module], constant, int(value))
print(time.monotonic() - began, flush=True)
for line in sys.stdin:
    words, trace = json.loads(line)
    if os.fork():
        os.wait()
        continue
    print(os.getpid(), flush=True)
    said = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdin.readline()
    samples = thread_samples.ThreadSamples("megatron_patch") if trace else None
    if samples:
        samples.start()
    began, before = time.monotonic(), os.times()
    status = cli.main(words)
    wall, after = time.monotonic() - began, os.times()
    user = after.user + after.children_user - before.user - before.children_user
    system = after.system + after.children_system - before.system - before.children_system
    trace = samples.stop() if samples else ""
    os.write(said, json.dumps([status, wall, user, system, trace]).encode() + b"\\n")
    os._exit(0)
"""
"""Imports once; for each line of words and whether to trace: forks, says its id, waits for a line, converts."""
GIB = 1 << 30
COPIED, HASHED = "cp -r; sync", "read, SHA-256, write"
"""Steps that conversion is held against."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int = 0
    """Anonymous memory above the started process."""
    system_seconds: float = 0.0
    """Of the CPU seconds."""
    trace: str = ""


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process, 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


def above(pid: int, base: int) -> int:
    """Anonymous bytes of a process and of those that it has forked, above what they began with."""
    return sum(max(0, anonymous_bytes(process) - base) for process in family_of(pid))


def children_cpu() -> tuple[float, float]:
    """Seconds of CPU, user and system together and system alone, that ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_stime


def settle(source: Path, warm: bool) -> None:
    """Flush what earlier steps left to be written, and put the source into the page cache, or out of it."""
    subprocess.run(["sync"], check=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(_settle_file, warm=warm), [path for path in source.rglob("*") if path.is_file()]))


def _settle_file(file: Path, *, warm: bool) -> None:
    with file.open("rb", buffering=0) as stream:
        while warm and stream.read(16 << 20):
            pass
        if not warm:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(source: Path, target: Path) -> Measured:
    """`cp -r` and `sync`, the limit that conversion is held against."""
    began, (cpu, system) = time.monotonic(), children_cpu()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync"], check=True)
    seconds, (cpu_after, system_after) = time.monotonic() - began, children_cpu()
    return Measured(seconds=seconds, cpu_seconds=cpu_after - cpu, system_seconds=system_after - system)


def plain_copy(source: Path, target: Path, processes: int, *words: str) -> Measured:
    """Processes that only copy, with SHA-256 or without."""
    script = Path(__file__).with_name("plain_copy.py")
    run = [sys.executable, str(script), str(source), str(target), "--processes", str(processes), *words]
    said = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, cpu, system = map(float, said.split())
    return Measured(seconds=seconds, cpu_seconds=cpu, system_seconds=system)


class Converter:
    """A checkout's converter, imported once."""

    def __init__(self, tree: Path, settings: list[str]) -> None:
        words = [sys.executable, "-c", SERVER, str(Path(__file__).parent), str(tree), *settings]
        self._process = subprocess.Popen(words, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait(self) -> float:
        """Until its imports are done: the seconds they took."""
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the converter ended")
        return line

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def convert(self, *words: str, trace: bool = False) -> Measured:
        """One conversion in a process of its own."""
        self._write(json.dumps([words, trace]))
        pid = int(self._read())
        base, peak, cores = anonymous_bytes(pid), 0, CoreSamples()
        self._write("go")
        assert self._process.stdout is not None
        while not select.select([self._process.stdout.fileno()], [], [], 0.005)[0]:
            peak = max(peak, above(pid, base))
            if trace:
                cores.look(pid)
        status, seconds, user, system, seen = json.loads(self._read())
        if status:
            raise SystemExit(f"conversion failed with status {status}")
        cpu = {"cpu_seconds": user + system, "system_seconds": system}
        return Measured(seconds=seconds, **cpu, peak_bytes=peak, trace=f"{seen}\n{cores.report()}" if trace else "")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is measured."""

    folder: Path
    rounds: int
    warm: bool
    copy: bool
    plain: bool
    trace: bool

    def measure(self, converter: Converter, workers: int | None) -> dict[str, list[Measured]]:
        """All steps in turn, so that none of them has a quieter machine than the others."""
        hf, megatron, back, copied = (self.folder / name for name in ("hf", "megatron", "back", "copied"))
        threads = ("--workers", str(workers)) if workers else ()
        to_megatron = ("--source", str(hf), "--output-path", str(megatron), *threads)
        to_hf = ("--source", str(megatron), "--output-path", str(back), *threads)
        steps: dict[str, tuple[Path, Path, Callable[[bool], Measured]]] = {
            COPIED: (hf, copied, lambda trace: copy(hf, copied)),
            "HF -> Megatron": (hf, megatron, lambda trace: converter.convert(*to_megatron, trace=trace)),
            "Megatron -> HF, not verified": (
                megatron, back, lambda trace: converter.convert(*to_hf, "--no-verify", trace=trace)
            ),
            "Megatron -> HF": (megatron, back, lambda trace: converter.convert(*to_hf, trace=trace)),
        }  # fmt: skip
        if not self.copy:
            del steps[COPIED]
        if self.plain:
            processes = workers or default_workers()
            steps = {
                "read and write": (hf, copied, lambda trace: plain_copy(hf, copied, processes, "--no-hash")),
                HASHED: (hf, copied, lambda trace: plain_copy(hf, copied, processes)),
                **steps,
            }
        found: dict[str, list[Measured]] = {name: [] for name in steps}
        for number in range(self.rounds + self.trace):
            for name, (source, target, step) in steps.items():
                shutil.rmtree(target, ignore_errors=True)
                settle(source, self.warm)
                measured = step(number == self.rounds)
                if number < self.rounds:
                    found[name].append(measured)
                elif measured.trace:
                    print(f"{name}, traced: {measured.seconds:.2f} s\n{measured.trace}", flush=True)
        for made in (megatron, back, copied):
            shutil.rmtree(made, ignore_errors=True)
        return found


def touch(folder: Path, gigabytes: int) -> None:
    """Have the machine give memory, or the disk room, that later steps will take."""
    each = [folder / f"touched-{i}" for i in range(gigabytes)]
    words = [["dd", "if=/dev/zero", f"of={file}", "bs=4M", "count=256", "status=none"] for file in each]
    for first in range(0, len(each), 16):
        for process in [subprocess.Popen(word) for word in words[first : first + 16]]:
            process.wait()
    for file in each:
        file.unlink()


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", choices=[name for name in size_names() if name != AUTO], default="1B")
    parser.add_argument("--folder", type=Path, help="where to work; needs three times the model's size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="with the source in the page cache")
    parser.add_argument("--layers", type=int, help="another depth")
    parser.add_argument("--workers", type=int, action="append", help="threads of a conversion; several are compared")
    parser.add_argument(
        "--untied", action="store_true", help="with an output layer of its own, where the size has none"
    )
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout, measured in turn with this")
    parser.add_argument("--trace", action="store_true", help="show where the threads of each conversion are")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="other values of constants")
    parser.add_argument("--no-copy", action="store_true", help="leave out `cp -r`")
    parser.add_argument("--plain", action="store_true", help="against as many processes that only read, hash and write")
    parser.add_argument("--touch", type=int, default=0, metavar="GB", help="write and free as much first")
    args = parser.parse_args()
    shape = model_of_size(args.size)
    shape = replace(
        shape,
        num_layers=args.layers or shape.num_layers,
        tie_embeddings=shape.tie_embeddings and not args.untied,
        vocab_size=shape.vocab_size or 4096,
    )
    nbytes = shape.num_parameters() * 2
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="convert-") as name:
        folder = Path(name)
        converters = {
            f"{words}; " if words else "": Converter(ROOT, words.split(",") if words else [])
            for words in args.set or [""]
        }
        if args.against:
            converters["against: "] = Converter(args.against.resolve(), [])
        began = time.monotonic()
        touch(folder, args.touch)
        touched = time.monotonic() - began
        make_hf_checkpoint(folder / "hf", shape, shard_bytes=max(nbytes // 6, 100_000_000), workers=default_workers())
        (folder / "hf" / "manifest.json").unlink()  # what comes from the hub has none
        made = time.monotonic() - began - touched
        print(f"{args.size}: {shape.num_layers} layers, {nbytes / 1e9:.2f} GB in bf16; made in {made:.0f} s")
        if args.touch:
            print(f"{args.touch} GB were touched in {touched:.0f} s")
        imports = max(converter.wait() for converter in converters.values())
        cores = len(os.sched_getaffinity(0))
        print(f"load before: {os.getloadavg()[0]:.1f} on {cores} cores; imports {imports:.1f} s", flush=True)
        work = Work(
            folder=folder, rounds=args.rounds, warm=args.warm, copy=not args.no_copy, plain=args.plain, trace=args.trace
        )
        for workers in args.workers or [None]:
            for number, (name, converter) in enumerate(converters.items()):
                work = replace(work, plain=args.plain and number == 0)
                print(f"{name}workers: {workers or 'default'}", flush=True)
                print(table(work.measure(converter, workers), nbytes), flush=True)
        for converter in converters.values():
            converter.close()


def _medians(runs: list[Measured]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    return statistics.median(run.seconds for run in runs), statistics.median(run.cpu_seconds for run in runs)


def table(found: dict[str, list[Measured]], nbytes: int) -> str:
    """Medians of each step, and how many times those of the step that they are held against they are.

    Args:
        nbytes: of the weights.
    """
    copied = found.get(HASHED) or found.get(COPIED)
    plain, plain_cpu = _medians(copied) if copied else (math.nan, math.nan)
    lines = [f"{'':29}  wall s   GB/s  to copy   CPU s  system  to copy  peak anonymous   wall of each round"]
    for step, runs in found.items():
        (seconds, cpu), peak = _medians(runs), max(run.peak_bytes for run in runs) / GIB
        system = statistics.median(run.system_seconds for run in runs)
        each = " ".join(f"{run.seconds:.2f}" for run in runs)
        lines.append(
            f"{step:29} {seconds:7.2f} {nbytes / 1e9 / seconds:6.2f} {seconds / plain:7.2f}x {cpu:7.1f} {system:7.1f} "
            f"{cpu / plain_cpu:7.2f}x {peak:11.2f} GiB   {each}"
        )
    return "\n".join(lines).replace("nanx", "   -")


if __name__ == "__main__":
    main()
