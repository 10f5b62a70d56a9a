"""Copy a folder's files with many processes that do nothing else, with SHA-256 of what passes or without: what a
machine's cores and memory allow, which benchmarks/convert.py holds conversion against.

    python benchmarks/plain_copy.py SOURCE TARGET [--processes 64] [--chunk BYTES] [--no-hash]

Each process reads one part of all bytes, chunk by chunk into the same memory, and writes a file of its own. They begin
together; the time until the last has ended is printed, and the seconds of CPU. Neither torch nor numpy is imported.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_patch.common.command_line import ArgumentParser

MIB = 1 << 20


def parts(files: list[Path], first: int, last: int) -> Iterator[tuple[Path, int, int]]:
    """Where the bytes from `first` to `last` of all files after each other lie: file, begin, end."""
    for file in files:
        size = file.stat().st_size
        if first < size and last > 0:
            yield file, max(0, first), min(size, last)
        first, last = first - size, last - size


def work(files: list[Path], bounds: tuple[int, int], target: Path, chunk: int, *, hashes: bool) -> None:
    """What one process does."""
    memory, sha = bytearray(chunk), hashlib.sha256()
    out = os.open(target, os.O_CREAT | os.O_WRONLY, 0o666)
    for file, begin, end in parts(files, *bounds):
        source = os.open(file, os.O_RDONLY)
        for at in range(begin, end, chunk):
            view = memoryview(memory)[: min(chunk, end - at)]
            assert os.preadv(source, [view], at) == len(view)
            if hashes:
                sha.update(view)
            assert os.write(out, view) == len(view)
        os.close(source)
    os.close(out)


def copy(source: Path, target: Path, processes: int, chunk: int, *, hashes: bool) -> tuple[float, float, float]:
    """Seconds, seconds of CPU, and those of them that the kernel took."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    total = sum(file.stat().st_size for file in files)
    target.mkdir()
    ready, go = os.pipe(), os.pipe()
    for number in range(processes):
        if os.fork() == 0:
            os.close(go[1])
            os.write(ready[1], b".")
            os.read(go[0], 1)  # returns when the other end is closed
            bounds = total * number // processes, total * (number + 1) // processes
            work(files, bounds, target / str(number), chunk, hashes=hashes)
            os._exit(0)
    for _ in range(processes):
        os.read(ready[0], 1)
    before, began = os.times(), time.monotonic()
    os.close(go[1])
    for _ in range(processes):
        _, status = os.wait()
        assert status == 0, status
    seconds, after = time.monotonic() - began, os.times()
    system = after.children_system - before.children_system
    return seconds, after.children_user - before.children_user + system, system


def main() -> None:
    """Copy and print."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, help="does not exist")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--chunk", type=int, default=MIB)
    parser.add_argument("--no-hash", action="store_true")
    args = parser.parse_args()
    print(*copy(args.source, args.target, args.processes, args.chunk, hashes=not args.no_hash))


if __name__ == "__main__":
    main()
