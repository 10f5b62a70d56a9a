"""Tasks of lm_eval beside CMMLU and C-Eval, through lm_eval's own Hugging Face model, with data of this machine."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import lm_eval
import lm_eval.api.task
import lm_eval.evaluator
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager, _factory

from megatron_patch.checkpoint.hf_model import HFModel
from megatron_patch.common.values import nearest
from megatron_patch.evaluation.data import DataError, shortened
from megatron_patch.evaluation.local_datasets import LocalDatasets, NoData
from megatron_patch.evaluation.run import ModelError, Settings, about_model, load_model
from megatron_patch.evaluation.tasks import replaced

SUMMARY, ANSWERS, TABLE = "tasks.json", "samples.jsonl", "tasks.md"
COMPARISON = "tasks_comparison.md"


@dataclass(frozen=True, kw_only=True)
class HowToAsk:
    """What these tasks know beside Settings."""

    num_fewshot: int | None
    """None: each task's own."""
    chat_template: bool
    """Questions are turns of a user's, in the model's chat template."""


@dataclass(kw_only=True)
class Scores:
    """Of one model."""

    summary: dict[str, Any]
    samples: list[dict[str, Any]]

    def files(self) -> dict[str, str]:
        """What is written, by name."""
        lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in self.samples)
        return {
            SUMMARY: json.dumps(self.summary, indent=1, ensure_ascii=False, default=str) + "\n",
            ANSWERS: "".join(lines),
            TABLE: markdown(self.summary),
        }


@functools.cache
def manager() -> TaskManager:
    """All of the installed lm_eval's tasks: its 12,000 files take some seconds."""
    return TaskManager()


def check(names: Sequence[str], data: LocalDatasets) -> list[str]:
    """Build all tasks without a model; returns their names.

    Raises:
        DataError: with every task that is unknown, every data set that is not here, and what is wrong with others.
    """
    known = manager().all_tasks
    problems = [
        f"TASKS: {name!r} is not a task of lm_eval {version('lm-eval')}{nearest(name, tuple(known))}"
        for name in names
        if name not in known
    ]
    if problems:
        raise DataError(problems)
    missing: list[str] = []
    leaves: list[str] = []
    with local_data(data, missing):
        for name in names:
            try:
                leaves += manager().load([name])["tasks"]
            except Exception as error:  # a package that its task needs, or a task that is not plain data
                missing.append(f"{name}: cannot be built: {type(error).__name__}: {error}")
    if missing:
        raise DataError([f"DATA: {line}" for line in shortened(list(dict.fromkeys(missing)))])
    return leaves


@contextmanager
def local_data(data: LocalDatasets, missing: list[str] | None = None) -> Iterator[None]:
    """Inside, lm_eval's tasks take their data from this machine.

    Args:
        missing: gets a line for each task that has none, which is then left out; None raises instead.
    """
    load = functools.cache(lambda path, name, options: data.load(path, name, json.loads(options)))

    class LocalTask(ConfigurableTask):
        """Upstream calls `datasets.load_dataset(DATASET_PATH, DATASET_NAME, **dataset_kwargs)` here."""

        def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            if callable(self.config.custom_dataset):
                super().download(dataset_kwargs, **kwargs)
                return
            options = {key: value for key, value in (dataset_kwargs or {}).items() if key != "trust_remote_code"}
            self.dataset = load(self.DATASET_PATH, self.DATASET_NAME, json.dumps(options, sort_keys=True))

    def built(config: dict[str, Any]) -> Any:
        try:
            return LocalTask(config=config)
        except Exception as error:  # a split or column that is not there raises whatever the task's code does
            if missing is None:
                raise
            reason = str(error) if isinstance(error, NoData) else _misfit(config, error)
            missing.append(f"{config['task']}: {reason}")
            return SimpleNamespace(task_name=config["task"])

    datasets.disable_progress_bars()
    with (
        replaced(_factory, "ConfigurableTask", built),
        replaced(lm_eval.evaluator, "get_git_commit_hash", lambda: None),
    ):
        yield


def _misfit(config: dict[str, Any], error: Exception) -> str:
    return f"what lies here is not {config.get('dataset_path')} as its task reads it: {type(error).__name__}: {error}"


def evaluate(model: HFModel, data: LocalDatasets, settings: Settings, how: HowToAsk) -> Scores | None:
    """Score a model; None on the ranks other than the first.

    Raises:
        ModelError: it cannot be loaded, does not fit, has no chat template, or gives NaN or inf.
    """
    lm = load_model(model, settings)
    if how.chat_template and not lm.tokenizer.chat_template:
        raise ModelError(f"--apply-chat-template: {model.folder} has no chat template")
    started = time.monotonic()
    with local_data(data):
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=list(settings.tasks),
            task_manager=manager(),
            num_fewshot=how.num_fewshot,
            batch_size=settings.batch_size,
            limit=settings.limit,
            apply_chat_template=how.chat_template,
            fewshot_as_multiturn=how.chat_template and how.num_fewshot != 0,
        )
    if results is None:
        return None
    samples = [{"task": task, **sample} for task, rows in results["samples"].items() for sample in rows]
    if wrong := sum(not _finite(sample["resps"]) for sample in samples):
        raise ModelError(f"CHECKPOINT: {model.folder} gives NaN or inf in {wrong} of {len(samples)} questions")
    summary = {
        **about_model(model, lm),
        "settings": {**asdict(settings), **asdict(how)},
        "versions": {name: version(name) for name in ("lm-eval", "transformers", "torch")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 3),
        "scores": rows(results),
    }
    return Scores(summary=summary, samples=samples)


def _finite(values: Any) -> bool:
    """Of nested lists and tuples, whether every float is finite."""
    if isinstance(values, (list, tuple)):
        return all(map(_finite, values))
    return not isinstance(values, float) or math.isfinite(values)


def rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """lm_eval's own figures, one for each task or group, metric and filter."""
    found = []
    for name, figures in results["results"].items():
        for key, value in figures.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = figures.get(f"{metric}_stderr,{filtered}")
            count = results.get("n-samples", {}).get(name, {}).get("effective")
            shots = results.get("n-shot", {}).get(name)
            found.append(
                {"task": name, "metric": metric, "filter": filtered, "value": float(value),
                 "stderr": error if isinstance(error, float) else None, "questions": count, "shots": shots}
            )  # fmt: skip
    return found


def markdown(summary: dict[str, Any]) -> str:
    """A table of all scores."""
    about = (
        f"# {summary['label']}\n\n`{summary['checkpoint']}` · {summary['parameters']:,} parameters · {summary['dtype']}"
        f" · scoring `{summary['scoring_used']}` · lm_eval {summary['versions']['lm-eval']} · {summary['date']}\n"
    )
    limit = summary["settings"]["limit"]
    about += f"\n- Only the first {limit} questions of each task were asked.\n" if limit else ""
    lines = [
        "| Task | Metric | Shots | Questions | Value | Standard error |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in summary["scores"]:
        error = "-" if row["stderr"] is None else f"{row['stderr']:.4f}"
        cells = [row["task"], _metric(row), row["shots"], row["questions"], f"{row['value']:.4f}", error]
        lines.append(f"| {' | '.join('-' if cell is None else str(cell) for cell in cells)} |")
    return about + "\n" + "\n".join(lines) + "\n"


def compare(first: Scores, second: Scores) -> str:
    """Both models' scores side by side."""
    one, other = first.summary, second.summary
    found = {(row["task"], row["metric"], row["filter"]): row["value"] for row in one["scores"]}
    lines = [
        f"| Task | Metric | {one['label']} | {other['label']} | Difference |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in other["scores"]:
        before = found[row["task"], row["metric"], row["filter"]]
        cells = [row["task"], _metric(row), f"{before:.4f}", f"{row['value']:.4f}", f"{row['value'] - before:+.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return f"# {other['label']} against {one['label']}\n\n" + "\n".join(lines) + "\n"


def _metric(row: dict[str, Any]) -> str:
    return row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"


def places_of(places: Sequence[Path], cache: Path) -> LocalDatasets:
    """Where to look, as typed."""
    return LocalDatasets(places=tuple(place.resolve() for place in places), cache=cache)
