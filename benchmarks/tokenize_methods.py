"""What `benchmarks/tokenize.py` measures. Every method runs in a process of its own and prints one JSON object."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRAINING_BYTES = 130_000_000
"""Of Python sources, headers and documentation: enough for 128,000 merges."""
VOCABULARY = 128_256


def standard_library() -> list[str]:
    """The sources of Python's own library, tests included: each a document."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    return [text for path in files if (text := path.read_text(encoding="utf-8", errors="ignore"))]


def write_corpus(path: Path, megabytes: float) -> int:
    """The documents again and again, to so many bytes of text; returns the bytes."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for text in itertools.cycle(standard_library()):
            file.write(json.dumps({"text": text}) + "\n")
            size += len(text.encode())
            if size >= megabytes * 1e6:
                return size
    return size


def installed_sources() -> Iterator[str]:
    """Texts for training a tokenizer, the standard library's and those of the installed packages."""
    for root in (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))):
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".pyi", ".md", ".rst", ".txt", ".h") and path.is_file():
                yield path.read_text(encoding="utf-8", errors="ignore")[:2_000_000]


def make_tokenizer(folder: Path) -> None:
    """Of Llama 3.1's kind and size: half a minute of one core, once."""
    from megatron_patch.data.train_tokenizer import save, train

    text, size = folder.parent / "training.jsonl", 0
    with text.open("w", encoding="utf-8") as file:
        for source in installed_sources():
            if source:
                file.write(json.dumps({"text": source}) + "\n")
                size += len(source.encode())
            if size > TRAINING_BYTES:
                break
    save(train([text], VOCABULARY), folder)
    text.unlink()


# ---------------------------------------------------------------- methods: each runs in its own process


def megatron(corpus: Path, tokenizer: Path, out: Path) -> dict[str, float]:
    """Megatron's tools/preprocess_data.py: its loop, one document at a time through a pool of one, with its classes."""
    import multiprocessing

    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from megatron.core.tokenizers.text.libraries.huggingface_tokenizer import HuggingFaceTokenizer

    def start() -> None:
        global theirs
        theirs = HuggingFaceTokenizer(str(tokenizer))

    before = cpu_seconds()
    vocabulary = HuggingFaceTokenizer(str(tokenizer)).vocab_size
    builder = IndexedDatasetBuilder(f"{out}.bin", dtype=DType.optimal_dtype(vocabulary))
    size = 0
    with multiprocessing.get_context("fork").Pool(1, initializer=start) as pool, corpus.open() as lines:
        for ids, length in pool.imap(_encode_like_megatron, lines, 32):
            builder.add_document(ids, [len(ids)])
            size += length
        pool.close()
        pool.join()
    builder.finalize(f"{out}.idx")
    return {"bytes": size, "cpu": cpu_seconds() - before}


theirs: Any = None


def _encode_like_megatron(line: str) -> tuple[list[int], int]:
    text = json.loads(line)["text"]
    return [*theirs.text_to_ids(text), theirs.eod], len(text.encode())


def hugging_face(corpus: Path, tokenizer: Path, out: Path) -> dict[str, float]:
    """`encode_batch_fast` of the tokenizers library, one thread; the ids are taken out, and nothing is written."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from megatron_patch.data.tokenizer import load_tokenizer

    backend = load_tokenizer(tokenizer).backend
    texts = [json.loads(line)["text"] for line in corpus.open()]
    before = cpu_seconds()
    tokens = sum(len(encoding.ids) for encoding in backend.encode_batch_fast(texts))
    return {"bytes": sum(len(t.encode()) for t in texts), "cpu": cpu_seconds() - before, "tokens": tokens}


def raw_library(corpus: Path, tokenizer: Path, out: Path) -> dict[str, float]:
    """gigatoken alone on texts in memory, one thread: the limit. Half of the corpus first, cold; then all, warm."""
    import gigatoken

    from megatron_patch.data.tokenizer import load_tokenizer

    engine = gigatoken.Tokenizer.from_json(load_tokenizer(tokenizer).backend.to_str())
    unique = standard_library()
    before = cpu_seconds()
    for start in range(0, len(unique), 200):
        engine.encode_batch(unique[start : start + 200], parallel=False)
    cold = sum(len(text.encode()) for text in unique) / (cpu_seconds() - before)
    texts = [json.loads(line)["text"] for line in corpus.open()]
    before = cpu_seconds()
    for start in range(0, len(texts), 200):
        engine.encode_batch(texts[start : start + 200], parallel=False)
    return {"bytes": sum(len(t.encode()) for t in texts), "cpu": cpu_seconds() - before, "cold": cold}


def cpu_seconds() -> float:
    """Of this process and the children it has waited for."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


METHODS = {"megatron": megatron, "hugging_face": hugging_face, "raw_library": raw_library}


# ---------------------------------------------------------------- measuring


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


def method(name: str, corpus: Path, tokenizer: Path, work: Path) -> dict[str, float]:
    """Run one of METHODS in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.tokenize_methods", "--method", name]
    run = measure([*command, "--corpus", str(corpus), "--tokenizer", str(tokenizer), "--work", str(work)])
    found: dict[str, float] = json.loads(run.out.splitlines()[-1])
    return found


def ours(corpus: Path, tokenizer: Path, prefix: Path, workers: int) -> Run:
    """The command a user types, with everything: imports, checks, reading, writing, checksums."""
    command = [sys.executable, "-m", "megatron_patch.data.preprocess", str(corpus), str(tokenizer), str(prefix)]
    return measure([*command, "--workers", str(workers), "--overwrite", "--engine", "gigatoken"])


def main(argv: list[str]) -> int:
    """The benchmark, or with --method one method for it."""
    parser = argparse.ArgumentParser(prog="benchmarks/tokenize.py", description="Compare ways of tokenizing a corpus.")
    parser.add_argument("--tokenizer", type=Path, help="a Hugging Face folder (a 128,256 tokenizer is trained)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks" / "tokenize", help="for files")
    parser.add_argument("--megabytes", type=float, default=120, help="of text in the large corpus (%(default)s)")
    parser.add_argument("--slow-megabytes", type=float, default=6, help="for the slow methods (%(default)s)")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.method:
        print(json.dumps(METHODS[args.method](args.corpus, args.tokenizer, args.work / args.method)))
        return 0
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
