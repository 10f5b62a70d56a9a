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
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from gpu_cases import CUT_SHAPES, SUITES, Case  # noqa: E402

from megatron_patch.families import LLAMA_3_1, SHAPES  # noqa: E402

for _name, (_size, _layers) in CUT_SHAPES.items():  # before launch.config makes the list of valid sizes
    SHAPES[_name] = LLAMA_3_1.shapes[_name] = replace(  # type: ignore[index]
        LLAMA_3_1.shape(_size), name=_name, num_layers=_layers
    )

from megatron_patch.launch.command import build_command  # noqa: E402
from megatron_patch.launch.driver import make_plan  # noqa: E402

WARM_UP = 3
"""First steps that no figure counts: compilation, autotuning, allocation."""
AHEAD = 1
"""Configurations whose ranks are started before their turn."""


@dataclass(kw_only=True)
class Running:
    """The ranks of one configuration."""

    case: Case
    folder: Path
    expected_bytes: int | None = None
    """By the memory plan."""
    refused: str = ""
    """Why the driver does not start it."""
    ranks: list[subprocess.Popen[str]] = field(default_factory=list)


def main() -> int:
    """Run the suites; 1 if a configuration failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--small", action="store_true", help="every model is a tiny one of 8 layers, at 128 tokens")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cases = chosen(args.suites)
    if args.small:
        cases = [replace(case, size="tiny-L8", seq=128, batch=min(case.batch, 8), seconds=600) for case in cases]
    results = []
    for result in run_all(cases, args):
        compare(result, cases, results)
        results.append(result)
        print(table([result], header=len(results) == 1), flush=True)
        (args.out / "results.json").write_text(json.dumps(results, indent=1))
    print("\n" + table(results, header=True))
    return any(result["status"] != "ok" for result in results)


def compare(result: dict[str, Any], cases: Sequence[Case], earlier: Sequence[dict[str, Any]]) -> None:
    """How far the plan was from the peak, and the losses from those of the reference."""
    if result.get("expected_gb") and result.get("peak_gb"):
        result["plan_ratio"] = round(result["expected_gb"] / result["peak_gb"], 3)
    wanted = next(case.reference for case in cases if case.name == result["name"])
    for other in earlier:
        if other["name"] == wanted and other.get("losses") and result.get("losses"):
            result["loss_gap"] = max(abs(a - b) for a, b in zip(result["losses"], other["losses"], strict=False))


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
    values = replace(case, start=start).values(data=str(data), output=str(folder))
    environ = os.environ | {"MP_TOKENIZER_PATH": str(args.tokenizer)} | case.environment()
    plan, environment, problems = make_plan(values, environ, dry_run=args.plan)
    if plan is None or environment is None:
        run.refused = "refused: " + "; ".join(f"{', '.join(p.names)}: {p.what}" for p in problems)
        return run
    run.expected_bytes = plan.memory.total
    command = build_command(plan, environment)
    flags = list(command.argv[command.argv.index("--device") :])
    if case.save_interval is None:
        where = flags.index("--save")
        del flags[where : where + 2]
    if args.plan:
        run.refused = f"plan only: {plan.memory.total / 1e9:.1f} GB " + " ".join(flags)
        return run
    environ = command.environment(environ)
    port = free_port()
    for rank in range(case.processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case.processes)}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(case.processes)}
        with (folder / f"console_{rank}.txt").open("w") as console:
            run.ranks.append(
                subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("gpu_rank.py")), str(folder / "phases.json"), *flags],
                    env=environ | own,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if rank == 0 else console,
                    stderr=console,
                    text=True,
                    cwd=REPOSITORY,
                )
            )
    return run


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
    result = {"name": run.case.name, "status": status, "waited_s": round(waited, 1)}
    result |= {"seconds": round(time.monotonic() - begin, 1)} | measure(run)
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


def measure(run: Running) -> dict[str, Any]:
    """Figures from metrics.jsonl and phases.json."""
    path = run.folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    steps = [record for record in records if "step_ms" in record]
    result: dict[str, Any] = {"steps": len(steps), "expected_gb": gigabytes(run.expected_bytes)}
    if steps:
        times = [record["step_ms"] for record in steps]
        settled = times[WARM_UP:] or times[-1:]
        middle = statistics.median(settled)
        share = times[-1] / middle  # rates are given for the last step; scale them to the median
        result |= {
            "step_ms": round(middle, 1),
            "slowest_ms": round(max(settled), 1),
            "first_ms": round(times[0]),
            "tokens_per_s_per_gpu": round(steps[-1]["tokens_per_s_per_gpu"] * share),
            "tflops_per_gpu": round(steps[-1]["tflops_per_gpu"] * share, 1),
            "peak_gb": gigabytes(max(record["peak_memory_bytes"] for record in steps)),
            "losses": [record["loss"] for record in steps],
            "grad_norms": [record["grad_norm"] for record in steps],
        }
    phases = run.folder / "phases.json"
    if phases.exists():
        result["phases"] = json.loads(phases.read_text())
    return result


def gigabytes(count: int | None) -> float | None:
    """In units of 1e9 bytes."""
    return None if count is None else round(count / 1e9, 2)


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


COLUMNS = (
    ("configuration", "name", "<22"),
    ("step ms", "step_ms", ">9"),
    ("slowest", "slowest_ms", ">9"),
    ("tok/s/GPU", "tokens_per_s_per_gpu", ">9"),
    ("TFLOP/s", "tflops_per_gpu", ">8"),
    ("peak GB", "peak_gb", ">8"),
    ("plan GB", "expected_gb", ">8"),
    ("ratio", "plan_ratio", ">6"),
    ("first loss", "first_loss", ">12"),
    ("last loss", "last_loss", ">12"),
    ("loss gap", "loss_gap", ">12"),
    ("run s", "seconds", ">7"),
    ("  ", "status", "<60"),
)


def table(results: Sequence[dict[str, Any]], *, header: bool) -> str:
    """One line for each configuration."""
    lines = [" ".join(format(title, width) for title, _, width in COLUMNS)] if header else []
    for result in results:
        losses = result.get("losses") or [None]
        shown = result | {"first_loss": losses[0], "last_loss": losses[-1]}
        cells = (shown.get(key) for _, key, _ in COLUMNS)
        lines.append(" ".join(_cell(value, width) for value, (_, _, width) in zip(cells, COLUMNS, strict=True)))
    return "\n".join(lines)


def _cell(value: Any, width: str) -> str:
    if value is None:
        return format("-", width)
    if isinstance(value, float):
        value = f"{value:.5f}" if width == ">12" else f"{value:.3f}" if width == ">6" else f"{value:.2f}"
    return format(str(value)[:60], width)


if __name__ == "__main__":
    sys.exit(main())
