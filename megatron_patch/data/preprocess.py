"""JSON Lines to Megatron's `.bin`/`.idx`: what `toolkits/pretrain_data_preprocessing` runs.

Each document becomes BOS (where the tokenizer adds one), its text, and EOD, in the order of files and lines,
whatever the number of threads: byte-identical to Megatron's `preprocess_data.py --append-eod` with
`HuggingFaceTokenizer`. Memory is bounded by the batch, plus four bytes a document.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from megatron_patch.data.idxmap import IdxmapWriter
from megatron_patch.data.jsonl import DataError, ReadCounts, find_files, read_texts
from megatron_patch.data.tokenizer import TextTokenizer, TokenizerError, load_tokenizer

BATCH_CHARACTERS = 2_000_000
"""Text handed to the tokenizer at once: enough work for many threads, tens of MB of memory."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to build."""

    source: Path
    """A JSON Lines file, or a folder that is searched for .jsonl and .json."""
    tokenizer: Path
    """Hugging Face tokenizer folder."""
    output_prefix: str
    """FOLDER/NAME. As Megatron's tool names its output: OUTPUT_PREFIX_{json_key}_document.bin and .idx."""
    json_key: str = "text"
    append_eod: bool = True
    workers: str = "0"
    """Threads, as typed; 0 takes every core."""
    overwrite: bool = False

    @property
    def prefix(self) -> Path:
        """What the driver takes as DATASET_PATH."""
        return Path(f"{self.output_prefix}_{self.json_key}_document")


def problems_of(request: Request) -> list[str]:
    """All that is wrong with the values, each naming its parameter; empty if nothing is."""
    problems = []
    try:
        find_files(request.source)
    except DataError as error:
        problems.append(f"1 INPUT: {error}")
    if not (request.tokenizer / "tokenizer_config.json").is_file():
        problems.append(
            f"2 TOKENIZER: {request.tokenizer} is no Hugging Face tokenizer folder (no tokenizer_config.json)"
        )
    if request.output_prefix.endswith(("/", "/.", "/..", ".bin", ".idx")) or not request.output_prefix:
        problems.append(f"3 OUTPUT_PREFIX: {request.output_prefix!r} is no file prefix; wanted FOLDER/NAME")
    elif there := [s for s in (".bin", ".idx") if Path(f"{request.prefix}{s}").exists() and not request.overwrite]:
        problems.append(f"3 OUTPUT_PREFIX: {request.prefix}{there[0]} exists; --overwrite replaces it")
    if not request.json_key or "/" in request.json_key:
        problems.append(f"--json-key: {request.json_key!r} cannot be part of a file name")
    if not request.workers.isdecimal():
        problems.append(f"--workers: {request.workers!r}; wanted 1 or more, or 0 for every core")
    return problems


def batches(texts: Iterator[tuple[str, int]]) -> Iterator[tuple[list[str], int]]:
    """Group documents into lists of about BATCH_CHARACTERS, with the bytes that were read for them."""
    batch: list[str] = []
    characters = size = 0
    for text, line_bytes in texts:
        batch.append(text)
        characters += len(text)
        size += line_bytes
        if characters >= BATCH_CHARACTERS:
            yield batch, size
            batch, characters, size = [], 0, 0
    if batch:
        yield batch, size


def build(request: Request, tokenizer: TextTokenizer, console: Console) -> str:
    """Write the dataset and return the report.

    Raises:
        DataError: a bad line, or no document at all; nothing is left at the output.
    """
    files = find_files(request.source)
    counts = ReadCounts()
    end = [tokenizer.eod_id] if request.append_eod else []
    request.prefix.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with _progress(console) as progress, IdxmapWriter(request.prefix, tokenizer.vocab_size) as writer:
        task = progress.add_task("tokenizing", total=sum(path.stat().st_size for path in files))
        for batch, size in batches(read_texts(files, request.json_key, counts)):
            for ids in tokenizer.encode(batch):
                writer.add_document(ids + end)
            progress.advance(task, size)
        if not writer.lengths:
            raise DataError(f"{request.source} holds no document ({_left_out(counts)})")
    seconds = time.monotonic() - began
    return "\n".join(
        (
            f"{request.prefix}.bin and .idx ({writer.dtype.__name__})",
            f"documents {len(writer.lengths):,}, tokens {writer.tokens:,}, bytes read {counts.bytes:,}",
            f"left out: {_left_out(counts)}",
            f"{seconds:.1f} s: {writer.tokens / seconds:,.0f} tokens/s, {counts.bytes / seconds / 1e6:.1f} MB/s",
        )
    )


def _left_out(counts: ReadCounts) -> str:
    return f"blank lines {counts.blank_lines}, documents of no text {counts.empty_documents}"


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)


def parse(argv: list[str]) -> Request:
    """Read the command line; a bad one exits with status 2."""
    parser = argparse.ArgumentParser(
        prog="run_make_pretraining_dataset.sh",
        description="Turn JSON Lines into a Megatron pretraining dataset. "
        "Each document ends with the tokenizer's eos_token; the driver takes the printed prefix as DATASET_PATH.",
        epilog="example: sh run_make_pretraining_dataset.sh corpus/ Llama-3.1-8B/ data/corpus --workers 8",
        allow_abbrev=False,
    )
    parser.add_argument("source", type=Path, metavar="INPUT", help="a JSON Lines file, or a folder of .jsonl/.json")
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER", help="a Hugging Face tokenizer folder")
    parser.add_argument("prefix", metavar="OUTPUT_PREFIX", help="writes OUTPUT_PREFIX_{key}_document.bin and .idx")
    parser.add_argument("--json-key", default="text", metavar="KEY", help="field that holds the text (%(default)s)")
    parser.add_argument("--no-append-eod", action="store_true", help="do not end each document with EOD")
    parser.add_argument("--workers", default="0", metavar="N", help="threads (0: every core)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset of that name")
    args = parser.parse_args(argv)
    return Request(
        source=args.source,
        tokenizer=args.tokenizer,
        output_prefix=args.prefix,
        json_key=args.json_key,
        append_eod=not args.no_append_eod,
        workers=args.workers,
        overwrite=args.overwrite,
    )


def main(argv: list[str]) -> int:
    """The command; 0 done, 2 wrong values, 1 bad data."""
    request = parse(argv)
    console = Console(stderr=True)
    problems = problems_of(request)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        return 2
    if int(request.workers):
        os.environ["RAYON_NUM_THREADS"] = request.workers  # read when the first batch is encoded
    try:
        tokenizer = load_tokenizer(request.tokenizer)
        eod = f"EOD {tokenizer.eod_id} {tokenizer.eod_token}" if request.append_eod else "no EOD"
        print(f"tokenizer: {tokenizer.vocab_size:,} tokens, {eod} ({tokenizer.note})")
        print(build(request, tokenizer, console))
    except TokenizerError as error:
        print(f"error: 2 TOKENIZER: {error}", file=sys.stderr)
        return 2
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BlockingIOError:
        print(f"error: another process is writing {request.prefix} right now", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
