"""NeMo's two preprocessing commands: they only rename flags."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError, print_error
from megatron_patch.common.messages import localized
from megatron_patch.common.terminal import guard
from megatron_patch.data import preprocess
from megatron_patch.data.sources import SUFFIXES
from megatron_patch.nemo.hub import find_model


def preprocess_data(argv: list[str]) -> int:
    """`preprocess_data.sh` of NeMo-AI-Workflow: INPUT_DIR/DATA_PREFIX.jsonl to OUTPUT_DIR/preprocessed/."""
    parser = ArgumentParser(
        prog="preprocess_data.sh",
        description=localized("nemo-data-about"),
    )
    parser.add_argument(
        "--hf-tokenizer",
        "--ht-tokenizer",
        required=True,
        metavar="TOKENIZER",
        help=localized("nemo-data-help-tokenizer"),
    )
    parser.add_argument("--data-prefix", required=True, metavar="NAME", help=localized("nemo-data-help-prefix"))
    parser.add_argument("--input-dir", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--output-dir", required=True, type=Path, metavar="FOLDER")
    args, rest = parser.parse_known_args(argv)
    try:
        source, tokenizer = _named_file(args.input_dir, args.data_prefix), find_tokenizer(args.hf_tokenizer)
    except UserError as error:
        return _fail(error)
    output = args.output_dir / "preprocessed" / args.data_prefix
    return preprocess.main([str(source), str(tokenizer), str(output), *rest])


def _named_file(folder: Path, name: str) -> Path:
    names = [name, *(f"{name}{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz", ".zst"))]
    found = [folder / candidate for candidate in names if (folder / candidate).is_file()]
    if len(found) != 1:
        wanted = f"{folder / name}.jsonl"
        if found:
            raise UserError("nemo-data-files", wanted=wanted, found=[path.name for path in found])
        raise UserError("nemo-data-file", wanted=wanted)
    return found[0]


def preprocess_data_for_megatron(argv: list[str]) -> int:
    """NeMo's `preprocess_data_for_megatron.py`, of the flags that concern text with these tokenizers."""
    parser = ArgumentParser(
        prog="preprocess_data_for_megatron.py",
        description=localized("nemo-data-about-megatron"),
    )
    parser.add_argument("--input", required=True, type=Path, help=localized("nemo-data-help-input"))
    parser.add_argument("--json-keys", nargs="+", default=["text"], help=localized("nemo-data-help-keys"))
    parser.add_argument("--dataset-impl", default="mmap", choices=("mmap",), help=localized("nemo-data-help-impl"))
    parser.add_argument("--tokenizer-library", default="huggingface", choices=("huggingface", "sentencepiece"))
    parser.add_argument("--tokenizer-type", help=localized("nemo-data-help-type"))
    parser.add_argument("--tokenizer-model", type=Path, help=localized("nemo-data-help-model"))
    parser.add_argument("--output-prefix", required=True, help="FOLDER/NAME")
    parser.add_argument("--append-eod", action="store_true", help=localized("nemo-data-help-eod"))
    args, rest = parser.parse_known_args(argv)
    hub = args.tokenizer_library == "huggingface"
    wanted = args.tokenizer_type if hub else args.tokenizer_model
    try:
        if not wanted:
            flag = "--tokenizer-type" if hub else "--tokenizer-model"
            raise UserError("nemo-tokenizer-flag", library=args.tokenizer_library, flag=flag)
        tokenizer = find_tokenizer(str(wanted)) if hub else Path(wanted)
    except UserError as error:
        return _fail(error)
    ends = [] if args.append_eod else ["--no-append-eod"]
    values = [str(args.input), str(tokenizer), args.output_prefix, *ends, *rest]
    statuses = [preprocess.main([*values, "--json-key", key]) for key in args.json_keys]
    return max(statuses)


def find_tokenizer(name: str) -> Path:
    """A folder as it is; a hub id from the local cache, or from the hub where there is a network.

    Raises:
        UserError: neither.
    """
    return Path(name) if Path(name).is_dir() else Path(find_model(name, None, os.environ, download=True).folder)


def _fail(error: UserError) -> int:
    print_error(error, os.environ)
    return 2


COMMANDS = {"preprocess_data": preprocess_data, "preprocess_data_for_megatron": preprocess_data_for_megatron}

if __name__ == "__main__":
    guard()
    sys.exit(COMMANDS[sys.argv[1]](sys.argv[2:]))
