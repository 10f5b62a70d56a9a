"""The dataset cards with which the unmodified lm_eval reads local CSV files.

    python -m megatron_patch.evaluation.cards    writes them below LM-Evaluation-Harness/

lm_eval's task definitions name the data sets `haonan-li/cmmlu` and `ceval/ceval-exam`; `datasets` takes a folder of
that name below the working directory before it asks the network, and reads the YAML at the top of its README.md:
one configuration per subject, and text for every column, so that `007` or `None` as an option stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from megatron_patch.evaluation.benchmarks import BENCHMARKS, Benchmark
from megatron_patch.evaluation.data import HARNESS


def card(benchmark: Benchmark) -> str:
    """README.md of the folder that holds a benchmark's splits."""
    first, *others = benchmark.subjects
    features = ", ".join(f"{{name: {column}, dtype: string}}" for column in benchmark.columns)
    lines = [
        "---",
        f"# Made by megatron_patch/evaluation/cards.py for {benchmark.title}.",
        *_configs(benchmark),
        "dataset_info:",
        f"- {{config_name: {first.name}, features: &features [{features}]}}",
        *(f"- {{config_name: {subject.name}, features: *features}}" for subject in others),
        "---",
        f"{benchmark.title}'s `{'/` and `'.join(benchmark.splits)}/` belong here, as their authors publish them "
        f"({benchmark.license}, {benchmark.homepage}).",
        "They are not shipped. `sh ../../prepare_data.sh PLACE` verifies a copy and links it here.",
    ]
    return "\n".join(lines) + "\n"


def with_fingerprint(benchmark: Benchmark, fingerprint: str) -> str:
    """`.huggingface.yaml` beside the card: the same configurations, each with what its data is.

    `datasets` 5.2 keeps what it read under a name made from the configurations, not from the files: without this,
    other questions in the same place are never read.
    """
    return "\n".join(_configs(benchmark, [f"  description: sha256 {fingerprint}"])) + "\n"


def _configs(benchmark: Benchmark, more: Sequence[str] = ()) -> list[str]:
    first, *others = benchmark.subjects
    columns = ", ".join(benchmark.columns)
    lines = ["configs:", *_config(benchmark, first.name, f"&columns [{columns}]"), *more]
    for subject in others:
        lines += [*_config(benchmark, subject.name, "*columns"), *more]
    return lines


def _config(benchmark: Benchmark, subject: str, columns: str) -> list[str]:
    files = ", ".join(
        f"{{split: {split}, path: {benchmark.file(subject, split)}}}" for split in reversed(benchmark.splits)
    )
    return [
        f"- config_name: {subject}",
        f"  data_files: [{files}]",
        f"  usecols: {columns}",
        "  keep_default_na: false",
        "  encoding: utf-8-sig",
    ]


def main() -> None:
    """Write the cards."""
    for benchmark in BENCHMARKS.values():
        file = HARNESS / benchmark.hub_path / "README.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(card(benchmark), encoding="utf-8")


if __name__ == "__main__":
    main()
