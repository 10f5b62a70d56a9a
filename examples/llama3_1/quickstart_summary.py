"""What the quickstart's runs came to: loss curves as PNG, a page of figures, and what the model now writes.

python examples/llama3_1/quickstart_summary.py runs/quickstart
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from megatron_patch.common.strict_json import parse_json, read_json

PROMPT = "def read_file(path):\n"
QUESTION = "# tempfile.py\ndef open_file(name, mode='r', encoding=None)"
SMOOTHED = 20
"""Iterations of the running mean in the plot, and of the first and last loss in the summary."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of the driver."""

    title: str
    steps: list[dict[str, Any]]
    """Training records, in order."""
    validation: dict[int, float]
    """Loss by iteration."""

    @staticmethod
    def read(title: str, folder: Path) -> Stage:
        records = [parse_json(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return Stage(
            title=title,
            steps=[r for r in records if "loss" in r],
            validation={r["iteration"]: r["validation_loss"] for r in records if "validation_loss" in r},
        )

    def figures(self) -> list[str]:
        """One cell of the table for each of FIGURES."""
        losses = [r["loss"] for r in self.steps]
        return [
            f"{self.steps[-1]['iteration']}, {self.steps[-1]['tokens']:,}",
            f"{losses[0]:.3f}",
            f"{statistics.fmean(losses[-SMOOTHED:]):.3f}",
            f"{[*self.validation.values()][-1]:.3f}" if self.validation else "none",
            f"{statistics.median(r['tokens_per_s_per_gpu'] for r in self.steps):,.0f}",
            f"{statistics.median(r['tflops_per_gpu'] for r in self.steps):.3g}",
            f"{sum(r['step_ms'] for r in self.steps) / 1e3:.0f} s",
            f"{max(r['peak_memory_bytes'] for r in self.steps) / 2**30:.2f} GiB",
        ]


FIGURES = (
    "iterations, tokens",
    "first loss",
    f"last loss (mean of {SMOOTHED})",
    "validation loss",
    "tokens per second and process",
    "TFLOP/s per process",
    "time in iterations",
    "peak memory of a process",
)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and up to `width - 1` before it."""
    return [statistics.fmean(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]


def draw(stages: Sequence[Stage], vocab_size: int, path: Path) -> None:
    """The loss over the iterations of each stage, against the loss of guessing."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    guess = math.log(vocab_size)
    figure, panels = plt.subplots(
        ncols=len(stages), figsize=(10, 4.5), layout="constrained", sharey=True, squeeze=False, width_ratios=(3, 2)
    )
    for stage, axes in zip(stages, panels[0], strict=True):
        iterations = [r["iteration"] for r in stage.steps]
        losses = [r["loss"] for r in stage.steps]
        axes.plot(iterations, losses, color="#9ecae1", linewidth=0.8)
        axes.plot(iterations, running_mean(losses, SMOOTHED), color="#08519c", linewidth=1.8, label="training")
        points = [*stage.validation], [*stage.validation.values()]
        axes.plot(*points, "o", color="#d94801", markersize=5, label="validation", clip_on=False)
        axes.axhline(guess, color="#666666", linewidth=1, linestyle="--")
        axes.set(xlabel="iteration", xlim=(0, iterations[-1]), title=stage.title)
        axes.grid(color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
    first = panels[0][0]
    note = f"guessing: ln {vocab_size} = {guess:.2f}"
    first.annotate(
        note,
        (1, guess),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        color="#666666",
    )
    first.set_ylabel("loss per token")
    first.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.92))
    figure.savefig(path, dpi=150)


def samples(folder: Path) -> tuple[str, str]:
    """What the trained Hugging Face model makes of the beginning of a file, and what it answers to QUESTION."""
    from megatron_patch.generate.model import AnsweringModel, Sampling

    model = AnsweringModel(folder)
    sampling = Sampling(max_new_tokens=80, temperature=0.7, top_k=40)
    question = [{"role": "user", "content": QUESTION}]
    return model.continued(PROMPT, sampling).text, model.answered(question, sampling).text


def describe(stages: Sequence[Stage], vocab_size: int, folder: Path) -> str:
    """The figures as Markdown."""
    cells = [FIGURES, *(stage.figures() for stage in stages)]
    rows = "\n".join(f"| {' | '.join(row)} |" for row in zip(*cells, strict=True))
    return (
        f"# Quickstart, {datetime.now().astimezone():%Y-%m-%d %H:%M}\n\n"
        f"| | {' | '.join(stage.title for stage in stages)} |\n| --- |{' --- |' * len(stages)}\n{rows}\n\n"
        f"Guessing among {vocab_size:,} tokens has a loss of {math.log(vocab_size):.3f}.\n\n"
        f"Loss curves: {folder / 'loss.png'}\n"
        f"The model, as Hugging Face has it: {folder / 'trained-hf'}\n"
        f"Everything of the runs: {folder / 'pretrain'}, {folder / 'finetune'}\n"
    )


def main(folder: Path) -> None:
    stages = [Stage.read("pretraining", folder / "pretrain"), Stage.read("finetuning", folder / "finetune")]
    tokenizer = read_json(folder / "tokenizer" / "tokenizer.json", large=True)
    vocab_size = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    draw(stages, vocab_size, folder / "loss.png")
    text, answer = samples(folder / "trained-hf")
    summary = describe(stages, vocab_size, folder)
    for title, given, written in (("It goes on with", PROMPT, text), ("Asked for the docstring of", QUESTION, answer)):
        summary += f"\n{title}:\n\n```text\n{given.strip()}\n```\n\n```text\n{written.strip()}\n```\n"
    (folder / "summary.md").write_text(summary)
    print(summary)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/llama3_1/quickstart_summary.py RUN_FOLDER")
    main(Path(sys.argv[1]))
