"""What the quickstart's run came to: a loss curve as PNG, a page of figures, and what the model now writes.

python examples/llama3_1/quickstart_summary.py runs/quickstart
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

PROMPT = "def read_file(path):\n"
SMOOTHED = 20
"""Iterations of the running mean in the plot, and of the first and last loss in the summary."""


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The training and the validation records, in order."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [r for r in records if "loss" in r], [r for r in records if "validation_loss" in r]


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and up to `width - 1` before it."""
    return [statistics.fmean(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]


def draw(steps: list[dict[str, Any]], validation: list[dict[str, Any]], vocab_size: int, path: Path) -> None:
    """The loss over the iterations, against the loss of guessing."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    iterations = [r["iteration"] for r in steps]
    losses = [r["loss"] for r in steps]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(iterations, losses, color="#9ecae1", linewidth=0.8)
    axes.plot(iterations, running_mean(losses, SMOOTHED), color="#08519c", linewidth=1.8, label="training")
    if validation:
        last = {r["iteration"]: r["validation_loss"] for r in validation}
        axes.plot([*last], [*last.values()], "o", color="#d94801", markersize=5, label="validation", clip_on=False)
    guess = math.log(vocab_size)
    axes.axhline(guess, color="#666666", linewidth=1, linestyle="--")
    axes.annotate(
        f"guessing: ln {vocab_size} = {guess:.2f}",
        (iterations[-1], guess),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        color="#666666",
    )
    axes.set(
        xlabel="iteration",
        ylabel="loss per token",
        xlim=(0, iterations[-1]),
        title=f"Llama 3.1 tiny, {steps[-1]['tokens']:,} tokens of the Python standard library",
    )
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.92))
    figure.savefig(path, dpi=150)


def write_on(folder: Path) -> str:
    """What the trained Hugging Face model makes of the beginning of a Python file."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    options = {"do_sample": True, "temperature": 0.7, "top_k": 40, "pad_token_id": tokenizer.pad_token_id}
    return tokenizer.decode(model.generate(**inputs, max_new_tokens=120, **options)[0], skip_special_tokens=True)


def describe(steps: list[dict[str, Any]], validation: list[dict[str, Any]], vocab_size: int, folder: Path) -> str:
    """The figures as Markdown."""
    losses = [r["loss"] for r in steps]
    seconds = sum(r["step_ms"] for r in steps) / 1e3
    rows = [
        ("loss of guessing, ln of the vocabulary", f"{math.log(vocab_size):.3f}"),
        ("first loss", f"{losses[0]:.3f}"),
        (f"last loss (mean of {min(SMOOTHED, len(losses))})", f"{statistics.fmean(losses[-SMOOTHED:]):.3f}"),
    ]
    if validation:
        rows.append(("validation loss", f"{validation[-1]['validation_loss']:.3f}"))
    rows += [
        ("iterations, tokens", f"{steps[-1]['iteration']}, {steps[-1]['tokens']:,}"),
        ("tokens per second and process", f"{statistics.median(r['tokens_per_s_per_gpu'] for r in steps):,.0f}"),
        ("TFLOP/s per process", f"{statistics.median(r['tflops_per_gpu'] for r in steps):.3g}"),
        ("time in iterations", f"{seconds:.0f} s"),
        ("peak memory of a process", f"{max(r['peak_memory_bytes'] for r in steps) / 2**30:.2f} GiB"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"# Quickstart, {datetime.now().astimezone():%Y-%m-%d %H:%M}\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n"
        f"Loss curve: {folder / 'loss.png'}\n"
        f"The model, as Hugging Face has it: {folder / 'trained-hf'}\n"
        f"Everything of the run: {folder / 'pretrain'}\n"
    )


def main(folder: Path) -> None:
    steps, validation = read_metrics(folder / "pretrain" / "metrics.jsonl")
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    vocab_size = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    draw(steps, validation, vocab_size, folder / "loss.png")
    text = write_on(folder / "trained-hf")
    summary = describe(steps, validation, vocab_size, folder)
    summary += f"\nWhat it writes after `{PROMPT.strip()}`:\n\n```text\n{text.strip()}\n```\n"
    (folder / "summary.md").write_text(summary)
    print(summary)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/llama3_1/quickstart_summary.py RUN_FOLDER")
    main(Path(sys.argv[1]))
