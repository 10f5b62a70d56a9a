"""SFT data as the model sees it: what `toolkits/sft_data_preprocessing/inspect.py` runs.

Samples as text with the trained tokens coloured (in a file: between ⟦ and ⟧), rows with their padding and
boundaries, statistics, and a histogram of lengths.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_patch.common.command_line import ArgumentParser, as_variable
from megatron_patch.common.disk import explain
from megatron_patch.common.errors import UserError, print_error
from megatron_patch.common.files import write_json
from megatron_patch.common.messages import Message, localized, say
from megatron_patch.common.terminal import guard, plain, raw
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft import side_by_side
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer, load_chat_tokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.layout import RowLayout, lay_out
from megatron_patch.data.sft.loss_mask import LOSSES, Tokens
from megatron_patch.data.sft.prepare import KINDS, Component, SFTData, open_components
from megatron_patch.data.sft.rendering.template import ChatTemplate
from megatron_patch.data.sft.selection import OVERLONG, Mask, Samples
from megatron_patch.data.sft.tokenize import LEAVING_OUT, TURNS
from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError

GREEN, DIM, PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[0m"


def marked_text(tokenizer: ChatTokenizer, sample: tuple[Tokens, Tokens, Mask], colour: bool) -> str:
    """A sample as text; what is trained on in green, or between brackets."""
    inputs, labels, mask = sample
    tokens = np.append(inputs, labels[-1])
    trained = np.append(False, mask)
    if not trained[-1]:
        tokens, trained = tokens[:-1], trained[:-1]  # an idxmap does not say which token it is
    before, after = (GREEN, PLAIN) if colour else ("⟦", "⟧")
    parts = []
    for flag, group in itertools.groupby(zip(tokens.tolist(), trained.tolist(), strict=True), key=lambda pair: pair[1]):
        text = plain(tokenizer.backend.decode([token for token, _ in group], skip_special_tokens=False))
        parts.append(f"{before}{text}{after}" if flag else text)
    return "".join(parts)


def show_sample(tokenizer: ChatTokenizer, samples: Samples, number: int, colour: bool) -> str:
    """One sample, with where it comes from and its counts."""
    sample = samples.sample(number)
    counts = {"positions": len(sample[0]), "trained": int(sample[2].sum())}
    head = plain(localized("inspect-sample", number=number, origin=samples.origin(number), **counts))
    return f"{DIM if colour else ''}{head}{PLAIN if colour else ''}\n{marked_text(tokenizer, sample, colour)}"


def show_row(tokenizer: ChatTokenizer, samples: Samples, layout: RowLayout, number: int, colour: bool) -> str:
    """One row as it is laid out (without shuffling): its boundaries, then its samples."""
    rows = layout.rows(samples.lengths)
    if not 0 <= number < len(rows):
        raise DataError("inspect-no-row", number=number, last=len(rows) - 1)
    members = rows.deal(layout.footprints(samples.lengths), np.arange(len(samples.lengths)))
    inside = members[rows.starts[number] : rows.starts[number + 1]]
    row = lay_out([samples.sample(int(member)) for member in inside], layout, len(inside) + 2)
    used = int(samples.lengths[inside].sum())
    counts = {"samples": len(inside), "used": used, "positions": layout.seq_length}
    lines = [localized("inspect-row", number=number, **counts)]
    if layout.packing:
        lines.append(f"cu_seqlens {row['cu_seqlens'].tolist()}, max_seqlen {int(row['max_seqlen'])}")
    return "\n".join([*lines, *(show_sample(tokenizer, samples, int(member), colour) for member in inside)])


def statistics(component: Component, layout: RowLayout) -> list[Message]:
    """Rows, lengths, trained share, and what packing makes of them."""
    lengths, report = component.samples.lengths, component.report
    marks = np.percentile(lengths, (0, 25, 50, 75, 95, 99, 100)).round().astype(int)
    names = ("min", "25%", "50%", "75%", "95%", "99%", "max")
    found = [*report.lines(), Message("inspect-trained", share=report.trained_tokens / report.tokens)]
    told = [f"{name} {mark}" for name, mark in zip(names, marks, strict=True)]
    found.append(Message("inspect-lengths", lengths=told))
    for packing in (False, True):
        tried = RowLayout(
            seq_length=layout.seq_length,
            packing=packing,
            pad_id=layout.pad_id,
            context_parallel_size=layout.context_parallel_size,
        )
        rows = tried.rows(lengths)
        how = Message("sft-packed" if packing else "sft-not-packed")
        filled = rows.fill(int(lengths.sum()))
        found.append(Message("inspect-rows", how=how, rows=len(rows), length=layout.seq_length, filled=filled))
    return found


def draw(lengths: npt.NDArray[np.int64], seq_length: int, path: Path) -> None:
    """A histogram of the lengths, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(lengths, bins=min(60, max(1, int(lengths.max()))), color="tab:green", edgecolor="white", linewidth=0.3)
    axes.axvline(seq_length, color="tab:red", linewidth=1, label=f"sequence length {seq_length}")
    axes.axvline(float(np.median(lengths)), color="black", linewidth=1, label=f"median {np.median(lengths):g}")
    axes.set(xlabel="positions of a sample", ylabel="samples", title=f"{len(lengths):,} samples", yscale="log")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; a bad one exits with status 2."""
    parser = ArgumentParser(prog="inspect.py", description=localized("inspect-about"))
    parser.add_argument("paths", nargs="+", metavar="PATH", help=localized("inspect-help-paths"))
    parser.add_argument("--tokenizer", type=Path, required=True, help=localized("help-tokenizer"))
    parser.add_argument("--kind", default="raw", choices=KINDS, help=as_variable("MP_DATASET_TYPE"))
    parser.add_argument("--seq-length", type=int, default=4096, metavar="N", help=localized("inspect-help-length"))
    parser.add_argument("--packing", action="store_true", help=localized("inspect-help-packing"))
    parser.add_argument("--cp", type=int, default=1, metavar="N", help=localized("inspect-help-cp"))
    parser.add_argument("--loss", default="assistant", choices=LOSSES, help=as_variable("MP_SFT_LOSS"))
    parser.add_argument("--overlong", default="truncate", choices=OVERLONG, help=as_variable("MP_SFT_OVERLONG"))
    parser.add_argument("--sample", type=int, nargs="+", metavar="N", help=localized("inspect-help-sample"))
    parser.add_argument("--row", type=int, nargs="+", metavar="N", help=localized("inspect-help-row"))
    parser.add_argument("--line", type=int, nargs="+", metavar="N", help=localized("inspect-help-line"))
    parser.add_argument("--dropped", default="lose", choices=LEAVING_OUT, help=as_variable("MP_SFT_DROPPED"))
    parser.add_argument("--turns", default="together", choices=TURNS, help=as_variable("MP_SFT_TURNS"))
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help=localized("inspect-help-plot"))
    parser.add_argument("--report", type=Path, metavar="FILE.json", help=localized("inspect-help-report"))
    parser.add_argument("--cache", type=Path, help=localized("help-cache"))
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help=localized("help-workers"))
    args = parser.parse_args(argv)
    baked = [
        name for name in ("loss", "overlong", "dropped", "turns") if getattr(args, name) != parser.get_default(name)
    ]
    if args.kind == "idxmap" and baked:
        parser.error(localized("inspect-idxmap-baked", options=[f"--{name}" for name in baked]))
    others = [name for name in ("sample", "row", "plot", "report") if args.line and getattr(args, name)]
    if others:
        parser.error(localized("inspect-line-alone", others=[f"--{name}" for name in others]))
    return args


def show(args: argparse.Namespace, cache: Path) -> None:
    """Print everything that was asked for.

    Raises:
        DataError, TokenizerError, TemplateError, TooMuchLost: see `prepare.open_components`.
    """
    tokenizer = load_chat_tokenizer(args.tokenizer)
    colour = _colour(args)
    if args.line:
        print(*lines_of(args, tokenizer, colour), sep="\n\n", file=raw(sys.stdout))
        return
    data = SFTData(
        tokenizer=args.tokenizer,
        seq_length=args.seq_length,
        kind=args.kind,
        cache=cache,
        loss=args.loss,
        overlong=args.overlong,
        dropped=args.dropped,
        turns=args.turns,
        max_lost=1.0,  # to look at what is lost is what this is for
        workers=args.workers,
    )
    layout = RowLayout(
        seq_length=args.seq_length, packing=args.packing, pad_id=tokenizer.pad_id, context_parallel_size=args.cp
    )
    components = open_components(args.paths, data, say=lambda message: print(message.localized(), file=sys.stderr))
    for component in components:
        samples, count = component.samples, len(component.samples.lengths)
        for number in args.row or []:
            print(show_row(tokenizer, samples, layout, number, colour), end="\n\n", file=raw(sys.stdout))
        for number in args.sample or ([] if args.row else range(min(2, count))):
            if not 0 <= number < count:
                raise DataError("inspect-no-sample", number=number, last=count - 1).about(component.name)
            print(show_sample(tokenizer, samples, number, colour), end="\n\n", file=raw(sys.stdout))
        print(component.name, *map(Message.localized, statistics(component, layout)), sep="\n")
    if args.report:
        _write_reports(components, args.report)
    if args.plot:
        draw(np.concatenate([component.samples.lengths for component in components]), args.seq_length, args.plot)
        say("inspect-plot", file=args.plot)


def _write_reports(components: list[Component], path: Path) -> None:
    """The report of the data, or of each data set of a blend under its name."""
    if len(components) == 1:
        components[0].report.write(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {component.name: component.report.as_dict() for component in components})


def lines_of(args: argparse.Namespace, tokenizer: ChatTokenizer, colour: bool) -> list[str]:
    """What --line asks for.

    Raises:
        DataError: several files, or no such line.
        TemplateError: a chat template that cannot be used.
    """
    if len(args.paths) != 1 or not Path(args.paths[0]).is_file() or args.kind != "raw":
        raise DataError("inspect-line-file")
    template, width = ChatTemplate.of(tokenizer), shutil.get_terminal_size((120, 40)).columns
    path = Path(args.paths[0])
    encoder = Encoder(tokenizer, "hf")
    training = side_by_side.Training(
        loss=args.loss,
        turns=args.turns,
        dropped=args.dropped,
        overlong=args.overlong,
        seq_length=args.seq_length,
        encode=lambda rendered: encoder.encode([rendered])[0][1],
    )
    return [side_by_side.compare(path, line, template, width, colour=colour, training=training) for line in args.line]


def _colour(args: argparse.Namespace) -> bool:
    return bool(args.color == "always" or (args.color == "auto" and sys.stdout.isatty()))


def main(argv: list[str]) -> int:
    """The command; 0 done, 2 wrong values, 1 bad data."""
    args = parse(argv)
    try:
        if args.cache:
            show(args, args.cache)
        else:
            with tempfile.TemporaryDirectory(prefix="sft-inspect-") as folder:
                show(args, Path(folder))
    except TokenizerError as error:
        print_error(error.about("--tokenizer"), os.environ)
        return 2
    except UserError as error:
        print_error(error, os.environ)
        return 1
    except OSError as error:
        print_error(UserError("uncoded", text=explain(error) or error), os.environ)
        return 1
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main(sys.argv[1:]))
