"""How fast conversion is, against a plain copy of the same bytes in the same run, and how much memory it takes.

    python benchmarks/convert.py [1B|8B|...] [--folder DIR] [--rounds 3] [--layers N] [--warm] [--workers N ...]

Makes a Hugging Face checkpoint of the architecture with random weights (no hub), then in turn: `cp -r` and `sync`; to
Megatron; back to Hugging Face. Copy and conversions start after a `sync`, with the source on the disk and not in the
page cache, as a large model's is; --warm reads it into the page cache before each step. Wall and CPU time are of the
command's work, from the parsed command line to what is flushed to the disk; the imports before it are shown apart.
Anonymous memory is sampled every 5 ms and is what lies above the process when its imports are done. CPU seconds hardly
depend on what else the machine does; wall seconds do.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_patch.checkpoint.random_model import make_hf_checkpoint
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.models import AUTO, model_of_size, size_names

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import sys, time
began = time.monotonic()
import torch
from megatron_patch.checkpoint import cli
from megatron_patch.checkpoint.converter import convert
from megatron_patch.checkpoint.formats import hf_writer
from megatron_patch.checkpoint.formats import sources
from megatron_patch.checkpoint.formats import torch_dist
print(time.monotonic() - began, flush=True)
sys.stdin.readline()
began, cpu = time.monotonic(), time.process_time()
status = cli.main(sys.argv[1:])
print(time.monotonic() - began, time.process_time() - cpu, flush=True)
sys.exit(status)
"""
"""Imports, waits for a line, works, and says how long the work took."""
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int = 0
    """Anonymous memory above the started process."""
    import_seconds: float = 0.0


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process, 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


def children_cpu() -> float:
    """Seconds of CPU, user and system, that ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def settle(source: Path, warm: bool) -> None:
    """Flush what earlier steps left to be written, and put the source into the page cache, or out of it."""
    subprocess.run(["sync"], check=True)
    for file in [path for path in source.rglob("*") if path.is_file()]:
        with file.open("rb", buffering=0) as stream:
            while warm and stream.read(16 << 20):
                pass
            if not warm:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(source: Path, target: Path) -> Measured:
    """`cp -r` and `sync`, the limit that conversion is held against."""
    began, cpu = time.monotonic(), children_cpu()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync"], check=True)
    return Measured(seconds=time.monotonic() - began, cpu_seconds=children_cpu() - cpu)


def convert(*words: str) -> Measured:
    """One conversion in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    imports = float(process.stdout.readline())
    base = peak = anonymous_bytes(process.pid)
    process.stdin.write("go\n")
    process.stdin.close()
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.005)
    said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"conversion failed:\n{said}")
    seconds, cpu = map(float, said.splitlines()[-1].split())
    return Measured(seconds=seconds, cpu_seconds=cpu, peak_bytes=peak - base, import_seconds=imports)


def measure(folder: Path, rounds: int, warm: bool, workers: int | None) -> dict[str, list[Measured]]:
    """All steps in turn, so that none of them has a quieter machine than the others."""
    hf, megatron, back, copied = (folder / name for name in ("hf", "megatron", "back", "copied"))
    threads = ("--workers", str(workers)) if workers else ()
    to_megatron = ("--source", str(hf), "--output-path", str(megatron), *threads)
    to_hf = ("--source", str(megatron), "--output-path", str(back), *threads)
    steps: dict[str, tuple[Path, Callable[[], Measured]]] = {
        "cp -r; sync": (hf, lambda: copy(hf, copied)),
        "HF -> Megatron": (hf, lambda: convert(*to_megatron)),
        "Megatron -> HF, not verified": (megatron, lambda: convert(*to_hf, "--no-verify")),
        "Megatron -> HF": (megatron, lambda: convert(*to_hf)),
    }
    found: dict[str, list[Measured]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (source, step) in steps.items():
            settle(source, warm)
            found[name].append(step())
            for made in (copied, back):
                shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(megatron)
    return found


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
        began = time.monotonic()
        make_hf_checkpoint(folder / "hf", shape, shard_bytes=max(nbytes // 6, 100_000_000))
        (folder / "hf" / "manifest.json").unlink()  # what comes from the hub has none
        made = time.monotonic() - began
        print(f"{args.size}: {shape.num_layers} layers, {nbytes / 1e9:.2f} GB in bf16; made in {made:.0f} s")
        print(f"load before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores", flush=True)
        for workers in args.workers or [None]:
            print(f"workers: {workers or 'default'}")
            print(table(measure(folder, args.rounds, args.warm, workers), nbytes), flush=True)


def table(found: dict[str, list[Measured]], nbytes: int) -> str:
    """Medians of each step, and how many times those of a plain copy they are.

    Args:
        nbytes: of the weights.
    """
    plain = statistics.median(run.seconds for run in found["cp -r; sync"])
    plain_cpu = statistics.median(run.cpu_seconds for run in found["cp -r; sync"])
    lines = [f"{'':29}  wall s   GB/s  to copy   CPU s  to copy  peak anonymous  imports s   wall of each round"]
    for step, runs in found.items():
        seconds = statistics.median(run.seconds for run in runs)
        peak = max(run.peak_bytes for run in runs) / GIB
        imports = statistics.median(run.import_seconds for run in runs)
        cpu = statistics.median(run.cpu_seconds for run in runs)
        each = " ".join(f"{run.seconds:.1f}" for run in runs)
        lines.append(
            f"{step:29} {seconds:7.1f} {nbytes / 1e9 / seconds:6.2f} {seconds / plain:7.2f}x {cpu:7.1f} "
            f"{cpu / plain_cpu:7.2f}x {peak:11.2f} GiB {imports:10.1f}   {each}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
