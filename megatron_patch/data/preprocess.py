"""Text to Megatron's `.bin`/`.idx`: the command that `toolkits/pretrain_data_preprocessing` runs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from rich.console import Console

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import print_error
from megatron_patch.common.messages import Wording, language_of
from megatron_patch.common.terminal import guard, raw
from megatron_patch.data.corpus import find_corpus
from megatron_patch.data.engines import ENGINES, EngineError
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.merge import merge
from megatron_patch.data.pretraining import Request, build, load
from megatron_patch.data.sentencepiece import PiecesError, find_sentencepiece
from megatron_patch.data.sources import left_out
from megatron_patch.data.tokenizer import TokenizerError


def problems_of(request: Request) -> list[str]:
    """All that is wrong with the values, each naming its parameter; empty if nothing is."""
    problems = []
    try:
        find_corpus(request.source)
    except DataError as error:
        problems.append(f"1 INPUT: {error}")
    try:
        if not find_sentencepiece(request.tokenizer) and not (request.tokenizer / "tokenizer_config.json").is_file():
            what = "is no Hugging Face tokenizer folder (no tokenizer_config.json), and no SentencePiece model (.model)"
            problems.append(f"2 TOKENIZER: {request.tokenizer} {what}")
    except PiecesError as error:
        problems.append(f"2 TOKENIZER: {error}")
    try:
        problems += _output_problems(request, request.prefix)
    except ValueError as error:
        problems.append(f"--shard: {error}")
    if not request.json_key or "/" in request.json_key:
        problems.append(f"--json-key: {request.json_key!r} cannot be part of a file name")
    if not re.fullmatch("[0-9]{1,9}", request.workers):
        problems.append(f"--workers: {request.workers!r}; wanted 1 or more, or 0 for every core")
    return problems


def _output_problems(request: Request, prefix: Path) -> list[str]:
    if request.output_prefix.endswith(("/", "/.", "/..", ".bin", ".idx")) or not request.output_prefix:
        return [f"3 OUTPUT_PREFIX: {request.output_prefix!r} is not a file prefix; wanted FOLDER/NAME"]
    there = [suffix for suffix in (".bin", ".idx") if Path(f"{prefix}{suffix}").exists()]
    if there and not request.overwrite:
        return [f"3 OUTPUT_PREFIX: {prefix}{there[0]} exists; --overwrite replaces it"]
    return []


def parse(argv: list[str]) -> tuple[Request, int]:
    """Read the command line; a bad one exits with status 2. The number is that of the shards to merge, or 0."""
    parser = ArgumentParser(
        prog="run_make_pretraining_dataset.sh",
        description="Turn text into a Megatron pretraining dataset. "
        "Each document ends with the tokenizer's eos_token; the driver takes the printed prefix as DATASET_PATH. "
        "A run that was interrupted goes on when it is started again.",
        epilog="example: sh run_make_pretraining_dataset.sh corpus/ Llama-3.1-8B/ data/corpus --workers 8",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="INPUT", help="JSON Lines (.jsonl, .json, also .gz, .zst), .parquet, or a folder")
    add("tokenizer", type=Path, metavar="TOKENIZER", help="a Hugging Face tokenizer folder, or a SentencePiece .model")
    add("prefix", metavar="OUTPUT_PREFIX", help="writes OUTPUT_PREFIX_{key}_document.bin and .idx")
    add("--json-key", default="text", metavar="KEY", help="field or column that holds the text (%(default)s)")
    add("--no-append-eod", action="store_true", help="do not end each document with EOD")
    add("--no-special-tokens", action="store_true", help="do not add what the tokenizer adds, such as BOS")
    add("--workers", default="0", metavar="N", help="processes (0: every core)")
    add("--engine", default="auto", choices=ENGINES, help="auto: gigatoken where it equals Hugging Face (%(default)s)")
    add("--shard", default="1/1", metavar="I/N", help="tokenize the I-th of N parts, one for each machine")
    add("--merge", type=int, default=0, metavar="N", help="put N shards together, once all are there")
    add("--overwrite", action="store_true", help="replace an existing dataset of that name")
    args = parser.parse_args(argv)
    request = Request(
        source=args.source,
        tokenizer=args.tokenizer,
        output_prefix=args.prefix,
        json_key=args.json_key,
        append_eod=not args.no_append_eod,
        special_tokens=not args.no_special_tokens,
        workers=args.workers,
        engine=args.engine,
        shard=args.shard,
        overwrite=args.overwrite,
    )
    return request, args.merge


def main(argv: list[str]) -> int:
    """The command; 0 done, 2 wrong values, 1 bad data, 130 interrupted."""
    request, shards = parse(argv)
    console = Console(file=raw(sys.stderr))
    problems = problems_of(request)
    if shards and request.shard != "1/1":
        problems.append("--merge: puts shards together that --shard has made; give one of the two")
    if shards < 0:
        problems.append(f"--merge: is {shards}; wanted how many shards there are")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        return 2
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are what --workers counts
    try:
        if shards:
            print(merge(request.whole_prefix, shards))
            return 0
        tokenizer = load(request.tokenizer)
        eod = f"EOD {tokenizer.eod_id} {tokenizer.eod_token}" if request.append_eod else "no EOD"
        print(f"tokenizer: {tokenizer.vocab_size:,} tokens, {eod} ({tokenizer.note})")
        wording = Wording(language=language_of(os.environ))
        for message in left_out(request.source):
            print(f"note: {wording.text(message)}", file=sys.stderr)
        print(build(request, tokenizer, console))
    except TokenizerError as error:
        return _fail(f"2 TOKENIZER: {error}", 2)
    except (DataError, EngineError) as error:
        print_error(error, os.environ)
        return 1
    except RuntimeError as error:
        return _fail(str(error), 1)
    except BlockingIOError:
        return _fail(f"another process is writing {request.prefix} right now", 1)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from here", 130)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    guard()
    sys.exit(main(sys.argv[1:]))
