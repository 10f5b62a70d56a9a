"""The ways of tokenizing that tokenization.py compares, and what they tokenize.

    python benchmarks/tokenization_methods.py METHOD CORPUS TOKENIZER OUT

Each runs in a process of its own and prints one JSON object: bytes of text, CPU seconds, and what else it knows.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    from megatron_patch.data.tokenizers.text_tokenizer import load_tokenizer

    backend = load_tokenizer(tokenizer).backend
    texts = [json.loads(line)["text"] for line in corpus.open()]
    before = cpu_seconds()
    tokens = sum(len(encoding.ids) for encoding in backend.encode_batch_fast(texts))
    return {"bytes": sum(len(t.encode()) for t in texts), "cpu": cpu_seconds() - before, "tokens": tokens}


def raw_library(corpus: Path, tokenizer: Path, out: Path) -> dict[str, float]:
    """gigatoken alone on texts in memory, one thread: the limit. Half of the corpus first, cold; then all, warm."""
    import gigatoken

    from megatron_patch.data.tokenizers.text_tokenizer import load_tokenizer

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


if __name__ == "__main__":
    print(json.dumps(METHODS[sys.argv[1]](*map(Path, sys.argv[2:]))))
