"""Tokenizing for pretraining: ours against Megatron's method, Hugging Face's batches, and the raw tokenizer library.

    python benchmarks/tokenization.py [--tokenizer FOLDER] [--work FOLDER] [--megabytes 120]

Corpus: the standard library's sources, repeated. Tokenizer: of Llama 3's size (128,256), trained once on the Python
sources that are installed, or --tokenizer. Every figure is CPU time of all processes involved, so that a busy
machine does not change it much; all of them come from one run. Each method's ids are compared with Hugging Face's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tokenization_methods import METHODS, VOCABULARY, make_tokenizer, write_corpus  # noqa: E402
from megatron_patch.common.command_line import ArgumentParser  # noqa: E402


def main() -> int:
    """Measure and print."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="a Hugging Face folder (a 128,256 tokenizer is trained)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks" / "tokenize", help="for files")
    parser.add_argument("--megabytes", type=float, default=120, help="of text in the large corpus (%(default)s)")
    parser.add_argument("--slow-megabytes", type=float, default=6, help="for the slow methods (%(default)s)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = args.tokenizer or args.work / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file():
        print(f"training a tokenizer of {VOCABULARY} tokens into {tokenizer} ...", file=sys.stderr)
        make_tokenizer(tokenizer)
    figures = collect(args.work, tokenizer, args.megabytes, args.slow_megabytes)
    (args.work / "results.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(report(figures))
    return 0


def collect(work: Path, tokenizer: Path, megabytes: float, slow_megabytes: float) -> dict[str, Any]:
    """All figures, CPU seconds and bytes of text."""
    slow, half, large = (work / f"{name}.jsonl" for name in ("slow", "half", "large"))
    sizes = [write_corpus(slow, slow_megabytes), write_corpus(half, megabytes / 2), write_corpus(large, megabytes)]
    results: dict[str, Any] = {"bytes": dict(zip(("slow", "half", "large"), sizes, strict=True))}
    for name, corpus in (("megatron", slow), ("hugging_face", slow), ("raw_library", large)):
        results[name] = method(name, corpus, tokenizer, work)
        print(f"{name} done", file=sys.stderr)
    runs = {}
    for name, corpus in (("slow", slow), ("half", half), ("large", large)):
        run = ours(corpus, tokenizer, work / f"ours_{name}", 1)
        runs[name] = {"cpu": run.cpu, "wall": run.wall, "peak_mib": run.peak_mib}
    many = ours(large, tokenizer, work / "ours_many", 0)
    runs["all cores"] = {"cpu": many.cpu, "wall": many.wall, "peak_mib": many.peak_mib}
    results["ours"] = runs
    ours_files, their_files = work / "ours_slow_text_document", work / "megatron"
    results["identical"] = all(
        Path(f"{ours_files}.{suffix}").read_bytes() == Path(f"{their_files}.{suffix}").read_bytes()
        for suffix in ("bin", "idx")
    )
    return results


def report(figures: dict[str, Any]) -> str:
    """A table in MB of text per CPU-second, and the ratios."""
    runs, sizes = figures["ours"], figures["bytes"]
    speed = {name: figures[name]["bytes"] / figures[name]["cpu"] / 1e6 for name in METHODS}
    steady = (sizes["large"] - sizes["half"]) / (runs["large"]["cpu"] - runs["half"]["cpu"]) / 1e6
    whole = sizes["large"] / runs["large"]["cpu"] / 1e6
    rows = [
        ("Megatron preprocess_data.py's method", speed["megatron"]),
        ("Hugging Face encode_batch_fast, ids only", speed["hugging_face"]),
        ("ours, whole command", whole),
        ("ours, steady, writing included", steady),
        ("gigatoken alone, cold (each text once)", figures["raw_library"]["cold"] / 1e6),
        ("gigatoken alone, warm: the limit", speed["raw_library"]),
    ]
    lines = ["| MB of text per CPU-second | |", "| --- | --- |"]
    lines += [f"| {name} | {value:.2f} |" for name, value in rows]
    lines += [
        "",
        f"ours, steady, to Megatron's method: {steady / speed['megatron']:.0f} times; whole command: "
        f"{whole / speed['megatron']:.0f} times; to the limit: {steady / speed['raw_library']:.0%}",
        f"{sizes['half'] / 1e6:.0f} MB end to end: {runs['half']['cpu']:.2f} CPU-seconds, {runs['half']['wall']:.2f} s",
        f"{sizes['large'] / 1e6:.0f} MB on all cores: {runs['all cores']['wall']:.2f} s, "
        f"{runs['all cores']['cpu']:.2f} CPU-seconds",
        "peak memory: " + ", ".join(f"{name} {run['peak_mib']:.0f} MiB" for name, run in runs.items()),
        f".bin and .idx identical to Megatron's: {figures['identical']}",
    ]
    return "\n".join(lines)


def method(name: str, corpus: Path, tokenizer: Path, work: Path) -> dict[str, float]:
    """Run one of METHODS in a process of its own."""
    script = str(Path(__file__).with_name("tokenization_methods.py"))
    run = measure([sys.executable, script, name, str(corpus), str(tokenizer), str(work / name)])
    found: dict[str, float] = json.loads(run.out.splitlines()[-1])
    return found


def ours(corpus: Path, tokenizer: Path, prefix: Path, workers: int) -> Run:
    """The command a user types, with everything: imports, checks, reading, writing, checksums."""
    command = [sys.executable, "-m", "megatron_patch.data.preprocess", str(corpus), str(tokenizer), str(prefix)]
    return measure([*command, "--workers", str(workers), "--overwrite", "--engine", "gigatoken"])


@dataclass(kw_only=True)
class Run:
    """One process tree, from start to end."""

    cpu: float
    """Seconds, imports and all."""
    wall: float
    peak_mib: float
    """Largest sum over its processes of proportional set sizes."""
    out: str


def measure(command: list[str]) -> Run:
    """Run a command and account for it and its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    out, err = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{err}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(cpu=cpu, wall=time.monotonic() - began, peak_mib=peak[0], out=out)


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    while process.poll() is None:
        total = sum(map(_proportional_mib, [process.pid, *_descendants(process.pid)]))
        peak[0] = max(peak[0], total)
        time.sleep(0.1)


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [grandchild for child in children for grandchild in _descendants(child)]


def _proportional_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


if __name__ == "__main__":
    sys.exit(main())
