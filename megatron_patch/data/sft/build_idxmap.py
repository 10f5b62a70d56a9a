"""Conversations to an SFT idxmap: what `toolkits/sft_data_preprocessing/run_build_idxmap_sft_dataset.sh` runs."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser, as_variable
from megatron_patch.common.errors import UsageError, UserError, print_error
from megatron_patch.common.messages import Message, at, localized
from megatron_patch.common.terminal import guard
from megatron_patch.data.columns import told
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.cache import CacheSource
from megatron_patch.data.sft.idxmap import write_idxmap
from megatron_patch.data.sft.layout import RowLayout
from megatron_patch.data.sft.loss_mask import LOSSES
from megatron_patch.data.sft.prepare import SFTData, open_components
from megatron_patch.data.sft.selection import MAX_LOST, OVERLONG
from megatron_patch.data.sft.tokenize import LEAVING_OUT, TURNS
from megatron_patch.data.sources import find_sources
from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError

PAI_NAMES = ("LLama3Tokenizer", "LLamaTokenizer", "Qwen2Tokenizer", "DeepSeekV2Tokenizer")
"""What the second value says in Pai-Megatron-Patch. Here the folder alone says what the tokenizer is."""
EXAMPLE = (
    "sh run_build_idxmap_sft_dataset.sh alpaca_zh-train.json LLama3Tokenizer 4096 data/alpaca_zh Meta-Llama-3.1-8B true"
)


@dataclass(frozen=True, kw_only=True)
class FinetuningRequest:
    """What to build."""

    sources: list[str]
    """Files and folders of conversations, separated by commas on the command line."""
    tokenizer_name: str
    seq_length: int
    output_prefix: str
    """As in Pai-Megatron-Patch: OUTPUT_PREFIX_text_document.bin and .idx are written, and .sft.json beside them."""
    tokenizer: Path
    packing: bool
    loss: str
    overlong: str
    dropped: str
    turns: str
    max_lost: float
    workers: int
    cache: Path | None
    """Where tokens are kept for the next run; None keeps them not."""
    overwrite: bool

    @property
    def prefix(self) -> Path:
        """What the driver takes as DATASET_PATH."""
        return Path(f"{self.output_prefix}_text_document")


def check(request: FinetuningRequest) -> None:
    """
    Raises:
        UsageError: all that is wrong with the values, each naming its parameter.
    """
    problems: list[Message] = []
    try:
        list(told(find_sources(request.sources)))
    except DataError as error:
        problems += error.about("1 INPUT").messages
    if request.tokenizer_name not in PAI_NAMES:
        problems.append(at("2 TOKENIZER_NAME", "usage-name", found=request.tokenizer_name, valid=PAI_NAMES))
    if request.seq_length < 2:
        problems.append(at("3 SEQ_LEN", "usage-too-small", found=request.seq_length, least=2))
    if not request.output_prefix or request.output_prefix.endswith(("/", "/.", "/..", ".bin", ".idx")):
        problems.append(at("4 OUTPUT_PREFIX", "usage-prefix", found=request.output_prefix))
    elif not request.overwrite and (there := [s for s in (".bin", ".idx") if Path(f"{request.prefix}{s}").exists()]):
        problems.append(at("4 OUTPUT_PREFIX", "usage-exists", file=f"{request.prefix}{there[0]}"))
    if not (request.tokenizer / "tokenizer_config.json").is_file():
        problems.append(at("5 LOAD_DIR", "usage-tokenizer", folder=request.tokenizer))
    if not 0 <= request.max_lost <= 1:
        problems.append(at("--max-lost", "usage-share", found=f"{request.max_lost:g}"))
    if request.workers < 0:
        problems.append(at("--workers", "usage-workers", found=request.workers))
    if problems:
        raise UsageError.of(problems)


def build(request: FinetuningRequest, cache: Path) -> list[Message]:
    """Write the dataset and return the report.

    Raises:
        DataError, TokenizerError, TemplateError, TooMuchLost: nothing has been written at the output.
    """
    data = SFTData(
        tokenizer=request.tokenizer,
        seq_length=request.seq_length,
        cache=cache,
        loss=request.loss,
        overlong=request.overlong,
        dropped=request.dropped,
        turns=request.turns,
        max_lost=request.max_lost,
        workers=request.workers,
    )
    (component,) = open_components(
        request.sources, data, say=lambda message: print(message.localized(), file=sys.stderr)
    )
    source = CacheSource.of(request.sources, request.tokenizer)
    layout = RowLayout(seq_length=request.seq_length, packing=request.packing, pad_id=source.tokenizer.pad_id)
    rows = layout.rows(component.samples.lengths)
    request.prefix.parent.mkdir(parents=True, exist_ok=True)
    beside = write_idxmap(
        request.prefix,
        component.samples,
        rows,
        component.report,
        tokenizer=source.tokenizer,
        template=source.template,
        packed=request.packing,
        loss=request.loss,
        overlong=request.overlong,
    )
    packed = Message("sft-packed" if request.packing else "sft-not-packed")
    shape = {"rows": beside.rows, "length": beside.seq_length, "filled": rows.fill(beside.tokens)}
    return [
        Message("sft-written", prefix=request.prefix),
        Message("sft-shape", **shape, how=packed),
        Message("sft-template", source=source.template.source, loss=request.loss),
        *component.report.lines(),
    ]


def parse(argv: list[str]) -> FinetuningRequest:
    """Read the command line; a bad one exits with status 2."""
    parser = ArgumentParser(
        prog="run_build_idxmap_sft_dataset.sh",
        description=localized("sft-about"),
        epilog=localized("help-example", command=EXAMPLE),
    )
    parser.add_argument("input", metavar="INPUT", help=localized("sft-help-input"))
    parser.add_argument("name", metavar="TOKENIZER_NAME", help=localized("sft-help-name", names=PAI_NAMES))
    parser.add_argument("seq_length", metavar="SEQ_LEN", type=int, help=localized("sft-help-length"))
    parser.add_argument("prefix", metavar="OUTPUT_PREFIX", help=localized("sft-help-prefix"))
    parser.add_argument("tokenizer", metavar="LOAD_DIR", type=Path, help=localized("help-tokenizer"))
    parser.add_argument("packing", metavar="PACKING", nargs="?", default="false", choices=("true", "false"))
    parser.add_argument("--loss", default="assistant", choices=LOSSES, help=localized("sft-help-loss"))
    parser.add_argument("--overlong", default="truncate", choices=OVERLONG, help=localized("sft-help-overlong"))
    parser.add_argument("--dropped", default="lose", choices=LEAVING_OUT, help=as_variable("MP_SFT_DROPPED"))
    parser.add_argument("--turns", default="together", choices=TURNS, help=as_variable("MP_SFT_TURNS"))
    parser.add_argument("--max-lost", type=float, default=MAX_LOST, help=localized("sft-help-lost"))
    parser.add_argument("--workers", type=int, default=0, metavar="N", help=localized("help-workers"))
    parser.add_argument("--cache", type=Path, help=localized("help-cache"))
    parser.add_argument("--overwrite", action="store_true", help=localized("help-overwrite"))
    args = parser.parse_args(argv)
    return FinetuningRequest(
        sources=args.input.split(","),
        tokenizer_name=args.name,
        seq_length=args.seq_length,
        output_prefix=args.prefix,
        tokenizer=args.tokenizer,
        packing=args.packing == "true",
        loss=args.loss,
        overlong=args.overlong,
        dropped=args.dropped,
        turns=args.turns,
        max_lost=args.max_lost,
        workers=args.workers,
        cache=args.cache,
        overwrite=args.overwrite,
    )


def main(argv: list[str]) -> int:
    """The command; 0 done, 2 wrong values, 1 bad data."""
    request = parse(argv)
    try:
        check(request)
        if request.cache:
            report = build(request, request.cache)
        else:
            request.prefix.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".tokens.", dir=request.prefix.parent) as folder:
                report = build(request, Path(folder))
    except UsageError as error:
        print_error(error, os.environ)
        return 2
    except TokenizerError as error:
        print_error(error.about("5 LOAD_DIR"), os.environ)
        return 2
    except UserError as error:
        print_error(error, os.environ)
        return 1
    except BlockingIOError:
        print_error(DataError("idxmap-locked", prefix=request.prefix), os.environ)
        return 1
    print(*map(Message.localized, report), sep="\n")
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main(sys.argv[1:]))
