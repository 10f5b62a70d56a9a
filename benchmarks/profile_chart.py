"""Where the time of one training step goes: a table and a picture of what gpu_rank.py recorded.

    python benchmarks/profile_chart.py PICTURE.svg NAME=FOLDER:MICRO_BATCHES ...

FOLDER is a configuration's, in the output of train_gpu.py: its `phases-rank0.profile.json` has the kernels of one
step, its `metrics.jsonl` the length of the steps that were not profiled.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_patch.common.kernel_kinds import NOT_KERNELS, kind_of

COLOURS = {
    "matmuls": "#4269d0",
    "attention": "#ff725c",
    "casts to fp8": "#efb118",
    "SwiGLU": "#6cc5b0",
    "norms": "#3ca951",
    "RoPE, and copies around it": "#a463f2",
    "residuals": "#9c6b4e",
    "optimizer": "#97bbf5",
    "cross-entropy": "#ff8ab7",
    "communication": "#2f4b7c",
    "memory copies": "#c7b299",
    "other": "#9498a0",
    "idle": "#e6e6e6",
}
WARM_UP = 2


def milliseconds(folder: Path, micro_batches: int) -> dict[str, float]:
    """Of one micro batch, by kind; `idle` is what the unprofiled steps took beyond that."""
    profile = json.loads((folder / "phases-rank0.profile.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    step = statistics.median(line["step_ms"] for line in lines[WARM_UP:-1])
    found = {name: 0.0 for name in COLOURS if name != "idle"}
    for kernel, entry in profile["kernels"].items():
        if not kernel.startswith(NOT_KERNELS):
            found[kind_of(kernel)] += entry["us"] / 1e3
    found["idle"] = step - sum(found.values())
    return {name: time / micro_batches for name, time in found.items()}


def draw(path: Path, runs: dict[str, dict[str, float]]) -> None:
    """One bar for each run, milliseconds of a micro batch."""
    figure, axes = pyplot.subplots(figsize=(10, 0.9 + 0.8 * len(runs)))
    for name, colour in COLOURS.items():
        left = [sum(list(run.values())[: list(run).index(name)]) for run in runs.values()]
        widths = [run[name] for run in runs.values()]
        axes.barh(list(runs), widths, left=left, color=colour, label=name, edgecolor="white", linewidth=0.5)
        for row, (start, width) in enumerate(zip(left, widths, strict=True)):
            if width > 20:
                axes.text(start + width / 2, row, f"{width:.0f}", ha="center", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ms of one micro batch (8192 tokens)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=4, fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0))
    figure.savefig(path, bbox_inches="tight")


def main(arguments: list[str]) -> None:
    """Print the table, write the picture."""
    picture, *named = arguments
    runs = {}
    for word in named:
        name, _, place = word.partition("=")
        folder, _, count = place.rpartition(":")
        runs[name] = milliseconds(Path(folder), int(count))
    draw(Path(picture), runs)
    print(f"| ms of a micro batch | {' | '.join(runs)} |\n| --- |{' --- |' * len(runs)}")
    for kind in next(iter(runs.values())):
        print(f"| {kind} | {' | '.join(f'{run[kind]:.1f}' for run in runs.values())} |")
    print(f"| sum | {' | '.join(f'{sum(run.values()):.1f}' for run in runs.values())} |")


if __name__ == "__main__":
    main(sys.argv[1:])
