"""Text to Megatron's `.bin`/`.idx`: the command that `toolkits/pretrain_data_preprocessing` runs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from rich.console import Console

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UsageError, UserError, print_error
from megatron_patch.common.messages import Message, at, localized, say
from megatron_patch.common.terminal import INTERRUPTED, guard, raw
from megatron_patch.data.corpus import find_corpus
from megatron_patch.data.idxmap.merge import merge
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.pretraining import PretrainingRequest, build, load
from megatron_patch.data.sources import left_out
from megatron_patch.data.tokenizers.engines import ENGINES
from megatron_patch.data.tokenizers.sentencepiece import PiecesError, find_sentencepiece
from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError


def problems_of(request: PretrainingRequest) -> list[Message]:
    """All that is wrong with the values, each naming its parameter; empty if nothing is."""
    problems: list[Message] = []
    try:
        find_corpus(request.source)
    except DataError as error:
        problems += error.about("1 INPUT").messages
    try:
        if not find_sentencepiece(request.tokenizer) and not (request.tokenizer / "tokenizer_config.json").is_file():
            problems.append(at("2 TOKENIZER", "usage-tokenizer-or-pieces", path=request.tokenizer))
    except PiecesError as error:
        problems += error.about("2 TOKENIZER").messages
    try:
        problems += _output_problems(request, request.prefix)
    except UsageError as error:
        problems += error.about("--shard").messages
    if not request.json_key or "/" in request.json_key:
        problems.append(at("--json-key", "usage-file-name", found=request.json_key))
    if not re.fullmatch("[0-9]{1,9}", request.workers):
        problems.append(at("--workers", "usage-workers", found=request.workers))
    return problems


def _output_problems(request: PretrainingRequest, prefix: Path) -> list[Message]:
    if request.output_prefix.endswith(("/", "/.", "/..", ".bin", ".idx")) or not request.output_prefix:
        return [at("3 OUTPUT_PREFIX", "usage-prefix", found=request.output_prefix)]
    there = [suffix for suffix in (".bin", ".idx") if Path(f"{prefix}{suffix}").exists()]
    if there and not request.overwrite:
        return [at("3 OUTPUT_PREFIX", "usage-exists", file=f"{prefix}{there[0]}")]
    return []


def parse(argv: list[str]) -> tuple[PretrainingRequest, int]:
    """Read the command line; a bad one exits with status 2. The number is that of the shards to merge, or 0."""
    parser = ArgumentParser(
        prog="run_make_pretraining_dataset.sh",
        description=localized("preprocess-about"),
        epilog=localized(
            "help-example", command="sh run_make_pretraining_dataset.sh corpus/ Llama-3.1-8B/ data/corpus --workers 8"
        ),
    )
    add = parser.add_argument
    add("source", type=Path, metavar="INPUT", help=localized("preprocess-help-source"))
    add("tokenizer", type=Path, metavar="TOKENIZER", help=localized("preprocess-help-tokenizer"))
    add("prefix", metavar="OUTPUT_PREFIX", help=localized("preprocess-help-prefix"))
    add("--json-key", default="text", metavar="KEY", help=localized("help-json-key"))
    add("--no-append-eod", action="store_true", help=localized("preprocess-help-eod"))
    add("--no-special-tokens", action="store_true", help=localized("preprocess-help-special"))
    add("--workers", default="0", metavar="N", help=localized("help-workers"))
    add("--engine", default="auto", choices=ENGINES, help=localized("preprocess-help-engine"))
    add("--shard", default="1/1", metavar="I/N", help=localized("preprocess-help-shard"))
    add("--merge", type=int, default=0, metavar="N", help=localized("preprocess-help-merge"))
    add("--overwrite", action="store_true", help=localized("help-overwrite"))
    args = parser.parse_args(argv)
    request = PretrainingRequest(
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
    problems = problems_of(request)
    if shards and request.shard != "1/1":
        problems.append(at("--merge", "usage-merge-shard"))
    if shards < 0:
        problems.append(at("--merge", "usage-merge", found=shards))
    if problems:
        return _fail(UsageError.of(problems), 2)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are what --workers counts
    try:
        report = merge(request.whole_prefix, shards) if shards else _tokenize(request)
    except TokenizerError as error:
        return _fail(error.about("2 TOKENIZER"), 2)
    except UserError as error:
        return _fail(error, 1)
    except BlockingIOError:
        return _fail(DataError("idxmap-locked", prefix=request.prefix), 1)
    except KeyboardInterrupt:
        return _fail(DataError("tokenizing-interrupted"), INTERRUPTED)
    print(*map(Message.localized, report), sep="\n")
    return 0


def _tokenize(request: PretrainingRequest) -> list[Message]:
    """Say what is used, and what is not read; do it."""
    tokenizer = load(request.tokenizer)
    named = {"id": tokenizer.eod_id, "token": tokenizer.eod_token}
    eod = Message("tokenizer-eod", **named) if request.append_eod else Message("tokenizer-without-eod")
    say("tokenizer-used", tokens=tokenizer.vocab_size, eod=eod, note=tokenizer.note)
    for message in left_out(request.source):
        print(localized("note", text=message), file=sys.stderr)
    return build(request, tokenizer, Console(file=raw(sys.stderr)))


def _fail(error: UserError, status: int) -> int:
    print_error(error, os.environ)
    return status


if __name__ == "__main__":
    guard()
    sys.exit(main(sys.argv[1:]))
