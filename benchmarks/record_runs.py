"""What train_gpu.py has measured in one call, into the project's records.

    sh toolkits/python.sh benchmarks/record_runs.py FOLDER [FOLDER ...] [--date 2026-11-28] [--write]
    sh toolkits/python.sh benchmarks/plan_accuracy.py --write

FOLDER holds the results.json of calls, under any name, and perhaps ceilings.json and bridge-*.json. Prints the tables
of docs/performance.md, and with --write puts them between its marks (before the section on where a step goes, if it
has none yet), adds the runs to docs/performance/DATE.json, and those that the planner predicts to measured_runs.csv,
each once; from there plan_accuracy.py makes docs/scaling.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_patch.common.command_line import ArgumentParser  # noqa: E402

if TYPE_CHECKING:
    from megatron_patch.launch.plan import Plan

PAGE = ROOT / "docs" / "performance.md"
RECORDS = ROOT / "docs" / "performance"
OWN = Path(__file__).with_name("measured_runs.csv")
MARKS = "<!-- record_runs.py: begin -->\n", "<!-- record_runs.py: end -->\n"
BEFORE = "## Where a step goes\n"
NOTED = 0.02
"""Two predictions nearer to each other than this are a tie."""
Run = dict[str, Any]

TABLES: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "Llama 3.1 8B in full": [
        ("one GPU: bf16; fp8; fp8 with MP_FP8_EXTRA=sums,head", ("8B-bf16", "8B-fp8", "8B-fp8-extra")),
        ("DP4: bf16; fp8", ("8B-dp4-bf16", "8B-dp4-fp8")),
        ("TP2 SP, bf16", ("8B-tp2-sp",)),
        ("TP2 SP, bf16: kernel by kernel; as CUDA graphs, the default", ("8B-tp2-bf16-eager", "8B-tp2-bf16-graphs")),
        ("TP2 SP, fp8, kernel by kernel; with overlapped communication", ("8B-tp2-fp8", "8B-tp2-fp8-ring-all")),
        (
            "TP2 SP, fp8, as CUDA graphs: no overlap; overlapped, the default",
            ("8B-tp2-fp8-graphs-alone", "8B-tp2-fp8-graphs"),
        ),
        ("CP2, bf16", ("8B-cp2",)),
        (
            "TP2 PP2 SP, bf16: two chunks, the default; one; four",
            ("8B-tp2-pp2-default", "8B-tp2-pp2-one-chunk", "8B-tp2-pp2-4-chunks"),
        ),
        ("in one chunk, LM head's weight gradient in the bubble", ("8B-tp2-pp2-defer",)),
        ("finetuning at 4096, packed, positions: bf16; fp8", ("sft-bf16", "sft-fp8")),
        ("LoRA at 4096, packed: bf16; fp8, micro batch 3", ("lora-8B-bf16", "lora-8B-fp8-micro3")),
        (
            "what the plan advises on 80 GB: one GPU, optimizer in RAM: bf16; fp8",
            ("8B-advice-offload", "8B-advice-offload-fp8"),
        ),
        (
            "the same on four, TP2 DP2: bf16; fp8; fp8 kernel by kernel",
            ("8B-advice-tp2-dp2-bf16", "8B-advice-tp2-dp2-fp8", "8B-advice-tp2-dp2-fp8-eager"),
        ),
    ],
    "Widths of 70B and 405B, as many layers as fit": [
        (
            "70B, TP4 SP: fp8, 42 layers; eight micro batches; four, without overlapped communication; bf16, 48",
            ("wide-70B-L42-fp8", "wide-70B-L42-fp8-b8", "wide-70B-L42-fp8-none", "wide-70B-L48-bf16"),
        ),
        ("405B, TP4 SP: fp8, 10 layers; bf16, 13", ("wide-405B-L10-fp8", "wide-405B-L13-bf16")),
        ("70B on 80 GB, TP4 SP: fp8, 22 layers; bf16, 25", ("wide-70B-L22-fp8", "wide-70B-L25-bf16")),
        ("405B on 80 GB, TP4 SP: fp8, 5 layers; bf16, 6", ("wide-405B-L5-fp8", "wide-405B-L6-bf16")),
        ("LoRA, 70B, 8 layers, one GPU: bf16; fp8", ("lora-70B-L8-bf16", "lora-70B-L8-fp8")),
        ("LoRA, 70B, 16 layers, one GPU: bf16; fp8", ("lora-70B-L16-bf16", "lora-70B-L16-fp8")),
        ("LoRA, 70B, 20 layers, TP4 SP: bf16; fp8", ("lora-70B-L20-tp4-bf16", "lora-70B-L20-tp4-fp8")),
        ("LoRA, 70B in full, TP4 SP: bf16", ("lora-70B-tp4-bf16",)),
    ],
    "Parts of a layer, 8 or fewer layers": [
        ("8B, 8 layers: bf16; fp8", ("one-L8-bf16", "one-L8-fp8")),
        ("70B, 2 layers: bf16; fp8", ("one-70B-L2-bf16", "one-70B-L2-fp8")),
        ("TP2 SP, fp8, 8 layers: no overlap; overlapped", ("tp2-L8-fp8", "tp2-L8-fp8-ring-all")),
        (
            "the same with all passes: no overlap; overlapped",
            ("tp2-L8-fp8-all-passes", "tp2-L8-fp8-ring-all-all-passes"),
        ),
        ("FlashAttention 4, bf16, 4 layers: cuDNN; it", ("flash-fused", "flash-auto")),
        ("the same, packed finetuning at 4096, positions: cuDNN; it", ("flash-sft-fused", "flash-sft-auto")),
        ("the same, two rows of 4096: cuDNN; it, asked for", ("flash-rows-fused", "flash-rows-flash")),
        (
            "CP2, bf16, 8 layers: as ever; 32 connections; K and V gathered; both",
            ("cp2-L8", "cp2-L8-32", "cp2-L8-gather", "cp2-L8-gather-32"),
        ),
        (
            "TP2 SP, bf16, 8 layers: as ever; 32 connections; norms without margin; both",
            ("tp2-L8-bf16", "tp2-L8-bf16-32", "tp2-L8-bf16-margin", "tp2-L8-bf16-32-margin"),
        ),
        ("TP2 SP, fp8, 8 layers: as ever; 32 connections", ("tp2-L8-fp8-again", "tp2-L8-fp8-32")),
        (
            "TP2 SP, fp8, 8 layers: no overlap; ring; pipeline; ring-all without gathers; without scatters",
            ("tp2-ways-none", "tp2-ways-ring", "tp2-ways-pipeline", "tp2-ways-no-ag", "tp2-ways-no-rs"),
        ),
        (
            "TP2 SP, 8 layers as CUDA graphs: fp8; fp8 overlapped; bf16 overlapped, 16 micro batches",
            ("tp2-L8-fp8-graphs-alone", "tp2-L8-fp8-graphs", "tp2-L8-bf16-graphs"),
        ),
        (
            "TP2 SP, fp8, 8 layers, sums in one order: as CUDA graphs; kernel by kernel",
            ("graphs-exact", "graphs-exact-eager"),
        ),
        ("CP2, bf16, 8 layers: as CUDA graphs; kernel by kernel", ("cp2-L8-graphs", "cp2-L8-eager")),
        ("finetuning at 4096, packed, 8 layers: bf16; fp8", ("sft-L8-bf16", "sft-L8-fp8")),
        (
            "8 layers, 16 micro batches, optimizer: on the GPU; in RAM; in RAM by Megatron's step; in RAM, fp8",
            ("L8-offload-none", "L8-offload-all", "L8-offload-megatron", "L8-offload-all-fp8"),
        ),
        ("fewer passes, bf16: none; residual", ("passes-bf16", "passes-bf16-residual")),
        (
            "fewer passes, fp8: none; residual; projection; swiglu; all",
            (
                "passes-fp8",
                *(f"passes-fp8-{name}" for name in ("residual", "projection", "swiglu", "default")),
            ),
        ),
        (
            "MP_FP8_EXTRA: none; sums; head; both",
            ("extra-none", "extra-sums", "extra-head", "extra-sums-head"),
        ),
    ],
}
"""By title: rows, each of runs whose cells stand beside each other."""
KERNELS = {"": "cuDNN", "flash-4": "Flash 4"}
"""By the column `attention` of measured_runs.csv."""


def row_of(plan: Plan) -> dict[str, Any]:
    """What makes a run one of measured_runs.csv; `predicts`: whether the planner's page can predict it from these."""
    config, layout, variables = plan.config, plan.layout, plan.variables
    plain = not config.sft and config.ac == "false" and variables.lora_rank is None and not variables.megatron_args
    adam = plan.precision.adam.bytes
    return {
        "kind": plan.gpu.name.split()[1].upper() if plan.gpu and " " in plan.gpu.name else "",
        "model": re.sub("-L[0-9]+$", "", config.model_size),
        "layers": plan.model.num_layers if re.search("-L[0-9]+$", config.model_size) else "",
        "precision": config.pr,
        "tp": layout.tp,
        "pp": layout.pp,
        "vpp": layout.chunks,
        "cp": layout.cp,
        "dp": layout.dp,
        "mbs": config.batch_size,
        "gbs": config.global_batch_size,
        "seq": config.seq_len,
        "tp_overlap": "" if layout.tp == 1 else str(plan.tp_overlap is not None).lower(),
        "adam_bytes": "" if adam == 12 else adam,
        "attention": "flash-4" if _takes_flash(plan) else "",
        "graphs": "true" if plan.cuda_graphs else "",
        "predicts": plain and plan.offload_fraction == 0 and not plan.deterministic,  # its rate is that of these runs
    }


def _takes_flash(plan: Plan) -> bool:
    """Whether FlashAttention 4 computes attention there, if it is installed."""
    from megatron_patch.launch.gpu_kinds import kind_of
    from megatron_patch.launch.step_time import fits_flash, may_take_flash

    config, kind = plan.config, kind_of(plan.gpu.name) if plan.gpu else None
    packed = config.sft and plan.variables.sft_packing
    fits = fits_flash(plan.model, micro_batch=config.batch_size, packed=packed, cp=config.cp)
    return kind is not None and kind.flash > 1 and fits and may_take_flash(plan)


def read_calls(folders: Sequence[Path]) -> tuple[dict[str, Run], dict[str, float], list[Run]]:
    """Runs that went well by name (the last of a name counts), the sustained rates, and Bridge's runs."""
    runs: dict[str, Run] = {}
    ceilings: dict[str, float] = {}
    bridge: list[Run] = []
    for file in sorted(path for folder in folders for path in folder.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, list):
            runs |= {run["name"]: run for run in content if isinstance(run, dict) and run.get("step_ms")}
        elif file.name == "ceilings.json":
            ceilings |= content
        elif "tokens_per_second_per_gpu" in content:
            bridge.append(content)
    return runs, ceilings, bridge


def page(runs: Mapping[str, Run], ceilings: Mapping[str, float], bridge: Sequence[Run], date: str) -> str:
    """The section of docs/performance.md."""
    usual, *others = [kind for kind, _ in Counter(map(_kind, runs.values())).most_common()] or ["GPU"]
    also = "".join(f", and on {kind}s where a row says so" for kind in others)
    lines = [f"## Measured on {date}", f"By `benchmarks/train_gpu.py` on {usual}s{also}."]
    if ceilings:
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in ceilings.items())
        lines += ["", f"Sustained there, TFLOP/s: {rates}."]
    for title, rows in TABLES.items():
        found = [
            cells for label, names in rows if (cells := _cells(label, [runs.get(n) for n in names], ceilings, usual))
        ]
        if found:
            head = [title, "attention", "s a step", "tokens/s per GPU", "TFLOP/s", "of the mix", "peak; plan GB"]
            lines += ["", _line(head), _line(["---"] * len(head)), *map(_line, found)]
    for part in (_saves(runs), _beside(runs, bridge), _ranking(runs)):
        lines += ["", *part] if part else []
    return "\n".join(lines) + "\n"


def _kind(run: Run) -> str:
    return run.get("row", {}).get("kind") or "GPU"


def _cells(label: str, runs: Sequence[Run | None], ceilings: Mapping[str, float], usual: str) -> list[str] | None:
    label, measured = _measured(label, runs)
    if not measured:
        return None
    runs, shares = measured, [_share(run, ceilings) for run in measured]
    unusual = dict.fromkeys(kind for kind in map(_kind, runs) if kind != usual)
    return [
        f"{label} ({', '.join(unusual)})" if unusual else label,
        "; ".join(dict.fromkeys(KERNELS[run.get("row", {}).get("attention", "")] for run in runs)),
        _beside_each_other(runs, lambda run: f"{run['step_ms'] / 1e3:.3f}"),
        _beside_each_other(runs, lambda run: f"**{run['tokens_per_s_per_gpu']:,}**"),
        _beside_each_other(runs, lambda run: "-" if _leaves_out(run) else f"{run['tflops_per_gpu']:.0f}"),
        "; ".join(f"{share:.2f}" if share else "-" for share in shares) if any(shares) else "",
        ", ".join(f"{run['peak_gb']:.2f}; {run['expected_gb']:.2f}" for run in runs),
    ]


def _measured(label: str, runs: Sequence[Run | None]) -> tuple[str, list[Run]]:
    """The runs that there are, and the label without the parts of the others."""
    head, colon, rest = label.rpartition(": ")
    parts = rest.split("; ")
    assert len(parts) == len(runs), label
    return head + colon + "; ".join(part for part, run in zip(parts, runs, strict=True) if run), [
        run for run in runs if run
    ]


def _beside_each_other(runs: Sequence[Run], shown: Any) -> str:
    return "; ".join(shown(run) for run in runs)


def _leaves_out(run: Run) -> bool:
    """Runs until 2026-11-27 have what nobody computed: logits that are not trained, gradients of frozen weights."""
    return str(run["name"]).startswith(("sft-", "lora-"))


def _share(run: Run, ceilings: Mapping[str, float]) -> float | None:
    if _leaves_out(run):
        return None
    mix = ceilings.get(f"{run.get('row', {}).get('precision')} mix")
    return run["tflops_per_gpu"] / mix if mix else run.get("of_mix")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


SAVE_PARTS = {
    "save_checkpoint_and_time": "between the steps",
    "generate_state_dict": "of it naming tensors",
    "save": "of it agreeing who writes what",
    "wait_until_copied": "the next optimizer's wait",
    "copy": "the copy to RAM, in threads",
}


def _saves(runs: Mapping[str, Run]) -> list[str]:
    """What each save cost: the stall is what steps took over the median, from the save to the next."""
    lines = []
    for run in (run for name, run in runs.items() if name.startswith("save-")):
        parts = run.get("phases", {}).get("saves", {})
        told = [
            f"{words} {', '.join(f'{seconds:.2f}' for _, seconds in parts[name] if seconds >= 0.005) or '0'} s"
            for name, words in SAVE_PARTS.items()
            if parts.get(name)
        ]
        stall = (run["slowest_ms"] - run["step_ms"]) / 1e3
        lines.append(f"Saves of `{run['name']}`: {'; '.join([f'slowest step {stall:.2f} s over the median', *told])}.")
    return lines


def _beside(runs: Mapping[str, Run], bridge: Sequence[Run]) -> list[str]:
    lines = []
    for other in bridge:
        ours = runs.get(f"8B-dp4-b32-{other['precision']}")
        if ours:
            mine, theirs = ours["tokens_per_s_per_gpu"], other["tokens_per_second_per_gpu"]
            lines.append(
                _line(
                    [
                        f"{other['precision']}, Bridge's performance recipe ({other['how']}), DP4, batch 32",
                        f"**{mine:,}** ({ours['peak_gb']:.1f} GB)",
                        f"{theirs:,} ({other['peak_gb']:.1f} GB)",
                        f"{mine / theirs:.2f}",
                    ]
                )
            )
    head = ["tokens/s per GPU", "ours", "Bridge", "ours / Bridge"]
    return [_line(head), _line(["---"] * 4), *lines] if lines else []


def _ranking(runs: Mapping[str, Run]) -> list[str]:
    """Whether layouts that were predicted apart came out in that order."""
    ranked = [run for name, run in runs.items() if name.startswith("rank4-") and run.get("predicted_ms")]
    if len(ranked) < 2:
        return []
    pairs = [
        sorted(pair, key=lambda run: run["predicted_ms"])
        for pair in combinations(ranked, 2)
        if pair[0]["row"]["precision"] == pair[1]["row"]["precision"]
    ]
    apart = [(a, b) for a, b in pairs if b["predicted_ms"] > (1 + NOTED) * a["predicted_ms"]]
    wrong = [f"{a['name'][6:]} before {b['name'][6:]}" for a, b in apart if a["step_ms"] > b["step_ms"]]
    worst = max(ranked, key=lambda run: abs(run["time_ratio"] - 1))
    return [
        f"Ranking (suite `rank-four`, {len(ranked)} layouts): {len(apart) - len(wrong)} of {len(apart)} pairs that "
        f"were predicted more than 2 % apart came out in that order{'; not ' + ', '.join(wrong) if wrong else ''}. "
        f"Times within {abs(worst['time_ratio'] - 1):.1%} ({worst['name'][6:]})."
    ]


def new_rows(runs: Mapping[str, Run], date: str, known: str) -> str:
    """Lines for measured_runs.csv.

    Args:
        known: what it holds.
    """
    columns = known.splitlines()[0].split(",")
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    for run in runs.values():
        row = run.get("row", {})
        if row.get("predicts") and run.get("predicted_ms"):
            times = {
                "step_s": round(run["step_ms"] / 1e3, 4),
                "predicted_before_s": round(run["predicted_ms"] / 1e3, 4),
            }
            writer.writerow({"date": date, **row, **times})
    return "".join(line for line in out.getvalue().splitlines(keepends=True) if line not in known)


def inserted(text: str, section: str) -> str:
    """docs/performance.md with the section between its marks."""
    begin, end = MARKS
    block = f"{begin}{section}{end}"
    if begin in text and end in text:
        return text[: text.index(begin)] + block + text[text.index(end) + len(end) :]
    assert BEFORE in text, f"{PAGE} has no {BEFORE!r}"
    return text.replace(BEFORE, f"{block}\n{BEFORE}", 1)


def write(runs: Mapping[str, Run], ceilings: Mapping[str, float], bridge: Sequence[Run], date: str) -> Iterator[Path]:
    """Change the records; yields each file. The page shows what was measured on that day in other calls too."""
    record = RECORDS / f"{date}.json"
    before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {"runs": [], "bridge": []}
    runs = {run["name"]: run for run in before["runs"]} | dict(runs)
    bridge = bridge or before["bridge"]
    PAGE.write_text(inserted(PAGE.read_text(encoding="utf-8"), page(runs, ceilings, bridge, date)), encoding="utf-8")
    yield PAGE
    new = [{key: value for key, value in run.items() if key != "tail"} for run in runs.values()]
    theirs = [{key: value for key, value in run.items() if key != "settings"} for run in bridge]
    content = before | {"runs": new, "bridge": theirs}
    content |= {"sustained": ceilings} if ceilings else {}
    record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    yield record
    known = OWN.read_text(encoding="utf-8")
    OWN.write_text(known + new_rows(runs, date, known), encoding="utf-8")
    yield OWN


def main() -> None:
    """Print the section, or change the records."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="$OUT of each call, the oldest first")
    parser.add_argument("--date", default=datetime.datetime.now(tz=datetime.UTC).date().isoformat())
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    runs, ceilings, bridge = read_calls(options.folders)
    if not runs:
        parser.error("no results there")
    print(page(runs, ceilings, bridge, options.date))
    if options.write:
        for file in write(runs, ceilings, bridge, options.date):
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
