"""What the checksums of a checkpoint cost: written with and without, in turns, by the code of a training run.

`python benchmarks/checksums.py FOLDER [GB]` writes into FOLDER and removes it again. Each rank of a run writes as this
process does: FILES files side by side, flushed to the disk.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.distributed.checkpoint.metadata import MetadataIndex

from megatron_patch.backend.saving import asynchronous, dcp_writer
from megatron_patch.runs.stored_chunks import StoredChunk, check_chunk, read_checksums, write_checksums

TURNS = 3
TENSOR_BYTES = 128 << 20


class Cost(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float
    """Of all threads: does not depend on who else computes here."""


class NoHash:
    """In the place of SHA-256."""

    def update(self, data: object) -> None:
        """Nothing."""

    def hexdigest(self) -> str:
        """Nothing."""
        return ""


def write(folder: Path, tensors: list[torch.Tensor]) -> tuple[Cost, list[dcp_writer.HashedResult]]:
    """What it took, and what was written."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    items: list[tuple[Any, Callable[[], Any]]] = [
        (SimpleNamespace(index=MetadataIndex(f"tensor {n}")), partial(torch.Tensor.detach, tensor))
        for n, tensor in enumerate(tensors)
    ]
    files = [items[number :: asynchronous.FILES] for number in range(asynchronous.FILES)]
    started, cpu = time.perf_counter(), time.process_time()
    with dcp_writer.without_crc32(), ThreadPoolExecutor(asynchronous.FILES) as pool:
        jobs = [
            pool.submit(asynchronous._write_file, folder / f"__0_{number}.distcp", items, lambda _: None)
            for number, items in enumerate(files)
        ]
        results = [result for job in jobs for result in job.result()]
    return Cost(time.perf_counter() - started, time.process_time() - cpu), results


def main() -> None:
    """Print a table."""
    folder = Path(sys.argv[1]) / "checksums-benchmark"
    gigabytes = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    count = max(2, round(gigabytes * 1e9 / TENSOR_BYTES))
    tensors = [torch.randn(TENSOR_BYTES // 4) for _ in range(count)]
    gigabytes = sum(tensor.nbytes for tensor in tensors) / 1e9
    costs: dict[str, list[Cost]] = {"with": [], "without": []}
    write(folder, tensors)  # warm-up
    for _ in range(TURNS):
        for name in costs:
            hashes = hashlib if name == "with" else SimpleNamespace(sha256=NoHash)
            with mock.patch.object(dcp_writer, "hashlib", hashes):
                costs[name].append(write(folder, tensors)[0])
    _, results = write(folder, tensors)
    middle = {
        name: Cost(*(statistics.median(column) / gigabytes for column in zip(*taken, strict=True)))
        for name, taken in costs.items()
    }
    for name, cost in middle.items():
        print(f"write {name} checksums: {cost.wall:.2f} s per GB, {cost.cpu:.2f} CPU seconds per GB")
    more = middle["with"].cpu - middle["without"].cpu
    print(f"ratio: {middle['with'].wall / middle['without'].wall:.2f}; SHA-256 takes {more:.2f} CPU seconds per GB")
    _verify(folder, results, gigabytes)
    shutil.rmtree(folder)


def _verify(folder: Path, results: list[dcp_writer.HashedResult], gigabytes: float) -> None:
    (folder / ".metadata").write_bytes(b"")
    places = [(result.storage_data, result) for result in results]
    chunks = [
        StoredChunk(file=p.relative_path, offset=p.offset, length=p.length, sha256=r.sha256, item="") for p, r in places
    ]
    write_checksums(folder, chunks, iteration=None)
    checksums = read_checksums(folder)
    assert checksums
    started, cpu = time.perf_counter(), time.process_time()
    for chunk in chunks:
        check_chunk(folder, checksums, chunk.file, chunk.offset, chunk.length)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"read back, one thread: {wall / gigabytes:.2f} s per GB, {cpu / gigabytes:.2f} CPU seconds per GB")


if __name__ == "__main__":
    main()
