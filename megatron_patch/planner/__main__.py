"""`python -m megatron_patch.planner SIZE --gpus N ...`: predicts a step, or finds the fastest layout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.terminal import guard
from megatron_patch.launch.gpu_kinds import KINDS, NETWORKS
from megatron_patch.models import sizes
from megatron_patch.planner.failures import outlook
from megatron_patch.planner.layouts import Choice, Job, default_choice
from megatron_patch.planner.render import WAYS, as_json, bar, command, table
from megatron_patch.planner.search import NothingFits, search

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict or search.

    Returns:
        0; 1 where no layout fits; 2 for a wrong value.
    """
    options = parser().parse_args(arguments)
    try:
        job = _job(options)
        found = search(job, _choice(options, job))
        future = outlook(job.gpus, options.mtbf_hours) if options.mtbf_hours else None
        line = command(job, found.best[0], options.emit, _given(options), options.tokens) if options.emit else ""
    except NothingFits as error:
        print(error, file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"planner: {error}", file=sys.stderr)
        return USAGE_ERROR
    if options.plot:
        options.plot.write_text(bar(found.best[0]), encoding="utf-8")
    if options.emit:
        print(line)
        return 0
    print(
        json.dumps(as_json(job, found, options.tokens, future), indent=2)
        if options.json
        else table(job, found, options.tokens, future)
    )
    return 0


def parser() -> argparse.ArgumentParser:
    """All flags."""
    made = ArgumentParser(prog="python -m megatron_patch.planner", description=__doc__)
    made.add_argument("size", choices=sorted(sizes()), metavar="SIZE", help=", ".join(sizes()))
    made.add_argument("--gpus", type=_whole, required=True)
    made.add_argument("--kind", choices=sorted(KINDS), default="h100")
    made.add_argument("--network", choices=sorted(NETWORKS), default="400Gb", help="of each GPU's card (400Gb)")
    made.add_argument("--seq", type=_whole, default=8192, help="tokens of a sequence (8192)")
    made.add_argument("--global-batch", type=_whole, required=True, help="sequences of a step")
    made.add_argument("--precision", choices=("bf16", "fp8"), default="bf16")
    made.add_argument("--tokens", type=_tokens, help="of the whole training: its time and GPU hours")
    made.add_argument("--vocab-size", type=_whole, help="where the size takes its vocabulary from the tokenizer")
    made.add_argument("--mtbf-hours", type=float, help="mean hours between failures of one GPU (Llama 3: 50000)")
    for name, words in LAYOUT_FLAGS.items():
        made.add_argument(name, type=_whole, help=f"{words}; without it, searched")
    made.add_argument("--recompute", choices=("none", "selective", "full"), help="without it, searched")
    made.add_argument(
        "--emit", choices=WAYS, help="print only the command of the best layout: for this machine, sbatch or Kubernetes"
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="--emit: a position or variable, as LR=1e-5",
    )
    made.add_argument("--json", action="store_true", help="for programs")
    made.add_argument("--plot", type=Path, help="write where the step goes, as SVG")
    return made


LAYOUT_FLAGS = {
    "--tp": "tensor parallel size",
    "--pp": "pipeline parallel size",
    "--vpp": "model chunks of each pipeline rank",
    "--cp": "context parallel size",
    "--micro-batch": "sequences of one pass",
}


def _whole(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10**9:
        raise ValueError
    return value


_whole.__name__ = "whole number from 1"  # argparse says it: invalid whole number from 1 value: '0'


def _tokens(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 1e18:
        raise ValueError
    return value


_tokens.__name__ = "number from 1 to 1e18"


def _job(options: argparse.Namespace) -> Job:
    model, kind = sizes()[options.size], KINDS[options.kind]
    vocabulary = options.vocab_size or model.vocab_size
    if vocabulary is None:
        raise ValueError(f"{options.size} takes its vocabulary from the tokenizer: give --vocab-size")
    if options.precision == "fp8" and kind.matmul_fp8 is None:
        raise ValueError(f"--precision fp8: a {kind.name.upper()} has no FP8 units; valid: bf16")
    if options.seq > model.max_position_embeddings:
        raise ValueError(f"--seq {options.seq}: {options.size} reads {model.max_position_embeddings} tokens at most")
    return Job(
        size=options.size,
        model=model,
        vocab_size=vocabulary,
        gpus=options.gpus,
        kind=kind,
        network=NETWORKS[options.network],
        seq_len=options.seq,
        global_batch=options.global_batch,
        precision=options.precision,
    )


def _given(options: argparse.Namespace) -> dict[str, str]:
    """--set, by name."""
    wrong = [text for text in options.set if "=" not in text]
    if wrong:
        raise ValueError(f"--set {wrong[0]}: has no value; valid: NAME=VALUE")
    return dict(text.split("=", 1) for text in options.set)


def _choice(options: argparse.Namespace, job: Job) -> Choice:
    given = {"tp": options.tp, "pp": options.pp, "cp": options.cp, "chunks": options.vpp}
    given |= {"micro_batch": options.micro_batch}
    free = default_choice(job)
    ac = {"none": ("false",), "selective": ("sel",), "full": ("full",)}.get(options.recompute, free.ac)
    fixed = {name: free.__dict__[name] if value is None else (value,) for name, value in given.items()}
    if options.vpp is None and options.pp is not None:  # a whole layout was given: chunks are part of it
        fixed["chunks"] = (1,) if options.tp is not None else free.chunks
    return Choice(**fixed, ac=ac)


if __name__ == "__main__":
    guard()
    sys.exit(main())
