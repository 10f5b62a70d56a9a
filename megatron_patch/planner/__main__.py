"""`python -m megatron_patch.planner SIZE --gpus N ...`: predicts a step, or finds the fastest layout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.terminal import guard
from megatron_patch.common.values import ValueProblem, real
from megatron_patch.launch.chunks import TAKEN
from megatron_patch.launch.gpu_kinds import KINDS, NETWORKS
from megatron_patch.models import sizes
from megatron_patch.planner.errors import NothingFits, PlannerError
from megatron_patch.planner.failures import outlook
from megatron_patch.planner.layouts import Choice, TrainingJob, default_choice
from megatron_patch.planner.render import WAYS, as_json, bar, command, table
from megatron_patch.planner.search import search

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict or search.

    Returns:
        0; 1 where no layout fits; 2 for a wrong value.
    """
    options = parser().parse_args(arguments)
    try:
        if options.set and not options.emit:
            raise PlannerError("planner-set-alone")
        job = _job(options)
        found = search(job, _choice(options, job))
        future = outlook(job.gpus, options.mtbf_hours) if options.mtbf_hours else None
        line = command(job, found.best[0], options.emit, _given(options), options.tokens) if options.emit else ""
    except NothingFits as error:
        print(error.localized(), file=sys.stderr)
        return 1
    except PlannerError as error:
        print(localized("planner-error", error=error), file=sys.stderr)
        return USAGE_ERROR
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
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
    made = ArgumentParser(prog="python -m megatron_patch.planner", description=localized("planner-about"))
    made.add_argument("size", choices=sorted(sizes()), metavar="SIZE", help=", ".join(sizes()))
    made.add_argument("--gpus", type=_whole, required=True)
    made.add_argument("--kind", choices=sorted(KINDS), default="h100")
    made.add_argument("--network", choices=sorted(NETWORKS), default="400Gb", help=localized("planner-help-network"))
    made.add_argument("--seq", type=_whole, default=8192, help=localized("planner-help-seq"))
    made.add_argument("--global-batch", type=_whole, required=True, help=localized("planner-help-batch"))
    made.add_argument("--precision", choices=("bf16", "fp8"), default="bf16")
    made.add_argument("--tokens", type=_tokens, help=localized("planner-help-tokens"))
    made.add_argument("--vocab-size", type=_whole, help=localized("planner-help-vocab"))
    made.add_argument("--mtbf-hours", type=_hours, help=localized("planner-help-mtbf"))
    for name, code in LAYOUT_FLAGS.items():
        made.add_argument(name, type=_whole, help=localized("planner-help-layout", what=Message(code)))
    made.add_argument("--recompute", choices=("none", "selective", "full"), help=localized("planner-help-searched"))
    made.add_argument("--emit", choices=WAYS, help=localized("planner-help-emit"))
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=localized("planner-help-set"),
    )
    made.add_argument("--json", action="store_true", help=localized("planner-help-json"))
    made.add_argument("--plot", type=Path, help=localized("planner-help-plot"))
    return made


LAYOUT_FLAGS = {
    "--tp": "planner-help-tp",
    "--pp": "planner-help-pp",
    "--vpp": "planner-help-vpp",
    "--cp": "planner-help-cp",
    "--micro-batch": "planner-help-micro",
}


def _whole(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:11]) <= 10**9:
        raise argparse.ArgumentTypeError(localized("planner-whole", value=repr(text)))
    return int(text)


def _tokens(text: str) -> float:
    return _real(text, 1, 1e18)


def _hours(text: str) -> float:
    return _real(text, 1e-3, 1e12)


def _real(text: str, least: float, most: float) -> float:
    try:
        return float(real(least, most).parse(text))
    except ValueProblem:
        bounds = {"least": f"{least:g}", "most": f"{most:g}"}
        raise argparse.ArgumentTypeError(localized("planner-number", value=repr(text), **bounds)) from None


def _job(options: argparse.Namespace) -> TrainingJob:
    model, kind = sizes()[options.size], KINDS[options.kind]
    vocabulary = options.vocab_size or model.vocab_size
    if vocabulary is None:
        raise PlannerError("planner-vocabulary", size=options.size)
    if options.precision == "fp8" and kind.matmul_fp8 is None:
        raise PlannerError("planner-no-fp8", gpu=kind.name.upper())
    if options.seq > model.max_position_embeddings:
        most = model.max_position_embeddings
        raise PlannerError("planner-too-long", length=options.seq, size=options.size, most=most)
    one = options.global_batch * options.seq
    if options.tokens is not None and options.tokens < one:
        raise PlannerError("planner-few-tokens", tokens=options.tokens, batch=options.global_batch, one=one)
    return TrainingJob(
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
        raise PlannerError("planner-set-form", text=wrong[0])
    return dict(text.split("=", 1) for text in options.set)


def _choice(options: argparse.Namespace, job: TrainingJob) -> Choice:
    given = {"tp": options.tp, "pp": options.pp, "cp": options.cp, "chunks": options.vpp}
    given |= {"micro_batch": options.micro_batch}
    free = default_choice(job)
    ac = {"none": ("false",), "selective": ("sel",), "full": ("full",)}.get(options.recompute, free.ac)
    fixed = {name: free.__dict__[name] if value is None else (value,) for name, value in given.items()}
    if options.vpp is None and options.tp is not None and options.pp is not None:
        fixed["chunks"] = (1, TAKEN)  # a layout was given: its chunks are those that the driver would try
    return Choice(**fixed, ac=ac)


if __name__ == "__main__":
    guard()
    sys.exit(main())
