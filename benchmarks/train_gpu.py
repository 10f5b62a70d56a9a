"""Train on GPUs in many configurations, one after the other, and print one table.

    python benchmarks/train_gpu.py SUITE[,SUITE ...] --tokenizer FOLDER --data PREFIX --out FOLDER [--seconds N]

Every configuration is a command line of the driver (25 values, MP_ variables): its plan gives the flags, the
environment and the memory that is expected, as in `run_mcore_llama3_1.sh`; only torchrun is left out, so that the
ranks of the next configuration can import while this one trains. A configuration that fails is a line in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.gpu_cases import CUT_SHAPES, Case  # noqa: E402
from benchmarks.gpu_cases import SUITES as CASES  # noqa: E402
from benchmarks.gpu_table import add_share, compare, measure, table  # noqa: E402
from benchmarks.gpu_targets import TARGETS  # noqa: E402
from benchmarks.pretend import hollow_model, pretend_gpus  # noqa: E402
from benchmarks.record_runs import row_of  # noqa: E402
from megatron_patch.common.command_line import ArgumentParser  # noqa: E402
from megatron_patch.models import model_of_size  # noqa: E402
from megatron_patch.models.names import default_family  # noqa: E402

for _name, (_size, _layers) in CUT_SHAPES.items():  # before launch.config makes the list of valid sizes
    default_family().sizes[_name] = replace(model_of_size(_size), name=_name, num_layers=_layers)

from megatron_patch.checkpoint.random_model import make_hf_checkpoint, tokenizer_vocab_size  # noqa: E402
from megatron_patch.launch.command import build_command  # noqa: E402
from megatron_patch.launch.driver import make_plan  # noqa: E402
from megatron_patch.launch.plan import Plan  # noqa: E402
from megatron_patch.launch.problems import driver_wording, render  # noqa: E402
from megatron_patch.launch.step_time import time_of_plan  # noqa: E402

SUITES = CASES | TARGETS
SAMPLE_TOKENS, TRAINED_SHARE = 150, 0.5
"""Of the packed conversations (docstrings of the standard library): mean, and part of positions, for the prediction."""
AHEAD = 1
"""Configurations whose ranks are started before their turn."""


@dataclass(kw_only=True)
class Running:
    """The ranks of one configuration."""

    case: Case
    folder: Path
    expected_bytes: int | None = None
    """By the memory plan."""
    expected_seconds: float | None = None
    """Of a step, by the planner."""
    row: dict[str, Any] = field(default_factory=dict)
    """Of measured_runs.csv."""
    refused: str = ""
    """Why the driver does not start it."""
    ranks: list[subprocess.Popen[str]] = field(default_factory=list)


def main() -> int:
    """Run the suites; 1 if a configuration failed."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", help=f"comma-separated: {', '.join(SUITES)}; or names of single configurations")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="prefix of .bin and .idx")
    parser.add_argument("--conversations", type=Path, help="JSON, for SFT on raw JSON")
    parser.add_argument("--sft-data", type=Path, help="prefix of an SFT idxmap")
    parser.add_argument("--start", type=Path, help="a Hugging Face folder for the suites that compare layouts")
    parser.add_argument("--out", type=Path, required=True, help="a folder for logs and results.json")
    parser.add_argument("--scratch", type=Path, help="where runs write their checkpoints (default: OUT)")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no configuration after that long")
    parser.add_argument("--plan", action="store_true", help="print the plans and start nothing")
    parser.add_argument("--gpus", metavar="4xH200", help="with --plan: as on a machine with these")
    parser.add_argument("--ceilings", type=Path, help="gpu_ceilings.py --sustained N --json, in this call")
    parser.add_argument("--small", action="store_true", help="every model is a tiny one of 8 layers, at 128 tokens")
    args = parser.parse_args()
    if args.gpus and not args.plan:
        parser.error("--gpus without --plan")
    if args.gpus:
        pretend_gpus(args.gpus)
    args.out.mkdir(parents=True, exist_ok=True)
    cases = chosen(args.suites)
    if args.small:
        cases = [
            replace(case, size="tiny-L8", seq=128, batch=min(case.batch, 8) // case.micro * case.micro, seconds=600)
            for case in cases
        ]
    ceilings = json.loads(args.ceilings.read_text()) if args.ceilings else {}
    results: list[dict[str, Any]] = []
    for result in run_all(cases, args):
        add_share(result, next(case.pr for case in cases if case.name == result["name"]), ceilings)
        compare(result, next(case.reference for case in cases if case.name == result["name"]), results)
        results.append(result)
        print(table([result], header=len(results) == 1), flush=True)
        (args.out / "results.json").write_text(json.dumps(results, indent=1))
    print("\n" + table(results, header=True))
    return any(result["status"] != "ok" for result in results)


def chosen(names: str) -> list[Case]:
    """The configurations of suites, or single ones, in the order asked for."""
    by_name = {case.name: case for suite in SUITES.values() for case in suite}
    cases: list[Case] = []
    for name in names.split(","):
        if name not in SUITES and name not in by_name:
            raise SystemExit(f"no suite or configuration {name!r}; suites: {', '.join(SUITES)}")
        cases += SUITES[name] if name in SUITES else [by_name[name]]
    return cases


def run_all(cases: Sequence[Case], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One result for each configuration."""
    deadline = time.monotonic() + args.seconds
    waiting: list[Running] = []
    todo = list(cases)
    while todo or waiting:
        while todo and len(waiting) <= AHEAD:
            waiting.append(prepare(todo.pop(0), args))
        run = waiting.pop(0)
        if time.monotonic() > deadline:
            stop(run)
            yield {"name": run.case.name, "status": "no time left"}
            continue
        yield {"name": run.case.name, "status": run.refused} if run.refused else execute(run, args)


def prepare(case: Case, args: argparse.Namespace) -> Running:
    """Plan the configuration and start its ranks up to the gate."""
    folder = (args.scratch or args.out) / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run = Running(case=case, folder=folder)
    data = {"": args.data, "raw": args.conversations, "idxmap": args.sft_data}[case.sft]
    start = str(args.start) if case.start == "given" else case.start
    if start == "random" or (args.plan and start == "None"):
        start = str(random_start(case.size, args.tokenizer, folder.parent, hollow=args.plan))
    values = replace(case, start=start).values(data=str(data), output=str(folder))
    environ = os.environ | {"MP_TOKENIZER_PATH": str(args.tokenizer)} | case.environment()
    plan, environment, problems = make_plan(values, environ, dry_run=False)
    if plan is None or environment is None:
        run.refused = "refused: " + "; ".join(render(problem, {}, driver_wording()) for problem in problems)
        return run
    run.expected_bytes, run.row = plan.memory.total, row_of(plan)
    predicted = time_of_plan(plan, SAMPLE_TOKENS if case.sft else None, TRAINED_SHARE)
    run.expected_seconds = predicted.total if predicted else None
    command = build_command(plan, environment)
    flags = list(command.argv[command.argv.index("--device") :])
    if case.save_interval is None:
        where = flags.index("--save")
        del flags[where : where + 2]
    if args.plan:
        run.refused = plan_only(plan, predicted.total if predicted else 0.0, case.steps, flags)
        return run
    run.ranks = start_ranks(folder, flags, command.environment(environ), case.processes)
    return run


def plan_only(plan: Plan, step_seconds: float, steps: int, flags: Sequence[str]) -> str:
    """One line: memory, time of all steps, and what Megatron's parser gets."""
    limit = f" of {plan.memory_limit / 1e9:.1f}" if plan.memory_limit else ""
    took = f", {steps} x {step_seconds:.2f} s" if step_seconds else ""
    return f"plan only: {plan.memory.total / 1e9:.1f}{limit} GB{took} " + " ".join(flags)


def random_start(size: str, tokenizer: Path, scratch: Path, *, hollow: bool = False) -> Path:
    """A Hugging Face folder of random weights, written once: 16 GB in a few seconds where it is RAM.

    Args:
        hollow: without the weights.
    """
    folder = scratch / f"random-{size}"
    if not folder.is_dir():
        model, workers = model_of_size(size), os.cpu_count() or 2
        vocab = model.vocab_size or tokenizer_vocab_size(tokenizer)
        if hollow:
            hollow_model(folder, model, vocab, tokenizer)
            return folder
        make_hf_checkpoint(folder, model, vocab_size=vocab, tokenizer=tokenizer, workers=workers)
    return folder


def start_ranks(folder: Path, flags: list[str], environ: Mapping[str, str], count: int) -> list[subprocess.Popen[str]]:
    """All ranks, which import and then wait at the gate; the first says so on its standard output."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    program = [sys.executable, str(Path(__file__).with_name("gpu_rank.py")), str(folder / "phases.json")]
    ranks = []
    for rank in range(count):
        with (folder / f"console_{rank}.txt").open("w") as console:
            ranks.append(
                subprocess.Popen(
                    [*program, *flags],
                    env={**environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if rank == 0 else console,
                    stderr=console,
                    text=True,
                    cwd=REPOSITORY,
                )
            )
    return ranks


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def execute(run: Running, args: argparse.Namespace) -> dict[str, Any]:
    """Open the gate, wait, and read what was recorded."""
    stdout = run.ranks[0].stdout
    assert stdout is not None
    waited = time.monotonic()
    while stdout.readline().strip() not in ("ready", ""):
        pass
    waited = time.monotonic() - waited
    begin = time.monotonic()
    for rank in run.ranks:
        assert rank.stdin is not None
        try:
            rank.stdin.write("go\n")
            rank.stdin.flush()
        except BrokenPipeError:
            pass  # it died while importing; its status says so below
    status = wait(run, run.case.seconds)
    (run.folder / "console_0.txt").open("a").write(stdout.read() or "")
    result = {"name": run.case.name, "status": status, "row": run.row, "waited_s": round(waited, 1)}
    result |= {"seconds": round(time.monotonic() - begin, 1)} | measure(
        run.folder, run.expected_bytes, run.expected_seconds
    )
    if status != "ok":
        result["tail"] = tail(run.folder)
        print(f"--- {run.case.name}: {status}\n{result['tail']}", flush=True)
    keep_logs(run, args.out)
    return result


def wait(run: Running, seconds: float) -> str:
    """`ok`, or what went wrong; all ranks have ended afterwards."""
    deadline, failed = time.monotonic() + seconds, ""
    while any(rank.poll() is None for rank in run.ranks):
        bad = [number for number, rank in enumerate(run.ranks) if rank.poll() not in (None, 0)]
        if bad and not failed:
            failed, deadline = f"rank {bad[0]} failed", min(deadline, time.monotonic() + 5)
        if time.monotonic() > deadline:
            stop(run)
            return failed or f"stopped after {seconds:.0f} s"
        time.sleep(0.05)
    bad = [number for number, rank in enumerate(run.ranks) if rank.returncode != 0]
    return failed or (f"rank {bad[0]} failed" if bad else "ok")


def stop(run: Running) -> None:
    """End the ranks of one configuration."""
    for rank in run.ranks:
        if rank.poll() is None:
            rank.kill()
    for rank in run.ranks:
        rank.wait()


def tail(folder: Path, lines: int = 15) -> str:
    """The end of the first log that has something to say."""
    for path in [*sorted(folder.glob("console_*.txt")), *sorted(folder.glob("logs/rank_*.log"))]:
        content = path.read_text(errors="replace").strip().splitlines()
        if any("rror" in line for line in content):
            return "\n".join(line[:300] for line in content[-lines:])
    return ""


def keep_logs(run: Running, out: Path) -> None:
    """Copy what is small; checkpoints stay in the scratch folder."""
    target = out / run.case.name
    target.mkdir(parents=True, exist_ok=True)
    for path in [*run.folder.glob("*.*"), *run.folder.glob("logs/rank_0.log")]:
        if path.is_file() and path.parent != target:
            shutil.copy(path, target / path.name)


if __name__ == "__main__":
    sys.exit(main())
