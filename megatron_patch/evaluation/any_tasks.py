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
from megatron_patch.common.messages import Message, Wording, at
from megatron_patch.common.values import nearest_word
from megatron_patch.evaluation.data import QuestionsError, shortened
from megatron_patch.evaluation.local_datasets import LocalDatasets, NoData
from megatron_patch.evaluation.results import IN_ENGLISH, about_scores
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
class ModelScores:
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
        QuestionsError: with every task that is unknown, every data set that is not here, and what is wrong with others.
    """
    known = manager().all_tasks
    if problems := [_unknown(name, tuple(known)) for name in names if name not in known]:
        raise QuestionsError.of(problems)
    missing: list[Message] = []
    leaves: list[str] = []
    with local_data(data, missing):
        for name in names:
            try:
                leaves += manager().load([name])["tasks"]
            except Exception as error:  # a package that its task needs, or a task that is not plain data
                missing.append(at(name, "eval-task-broken", kind=type(error).__name__, error=str(error)))
    if missing:
        raise QuestionsError.of(shortened(list(dict.fromkeys(missing)))).about("DATA")
    return leaves


def _unknown(name: str, known: tuple[str, ...]) -> Message:
    near = nearest_word(name, known)
    hint = Message("eval-nearest", name=near) if near else ""
    return at("TASKS", "eval-unknown-task", name=name, version=version("lm-eval"), hint=hint)


@contextmanager
def local_data(data: LocalDatasets, missing: list[Message] | None = None) -> Iterator[None]:
    """Inside, lm_eval's tasks take their data from this machine.

    Args:
        missing: gets a message for each task that has none, which is then left out; None raises instead.
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
            reason = error.messages[0] if isinstance(error, NoData) else _misfit(config, error)
            missing.append(Message("at", path=config["task"], what=reason))
            return SimpleNamespace(task_name=config["task"])

    datasets.disable_progress_bars()
    with (
        replaced(_factory, "ConfigurableTask", built),
        replaced(lm_eval.evaluator, "get_git_commit_hash", lambda: None),
    ):
        yield


def _misfit(config: dict[str, Any], error: Exception) -> Message:
    kind = type(error).__name__
    return Message("eval-misfit", name=config.get("dataset_path"), kind=kind, error=str(error))


def evaluate(model: HFModel, data: LocalDatasets, settings: Settings, how: HowToAsk) -> ModelScores | None:
    """Score a model; None on the ranks other than the first.

    Raises:
        ModelError: it cannot be loaded, does not fit, has no chat template, or gives NaN or inf.
    """
    lm = load_model(model, settings)
    if how.chat_template and not lm.tokenizer.chat_template:
        raise ModelError.at("--apply-chat-template", "eval-no-template", folder=model.folder)
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
        raise ModelError.at("CHECKPOINT", "eval-nan", folder=model.folder, wrong=wrong, questions=len(samples))
    summary = {
        **about_model(model, lm),
        "settings": {**asdict(settings), **asdict(how)},
        "versions": {name: version(name) for name in ("lm-eval", "transformers", "torch")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 3),
        "scores": rows(results),
    }
    return ModelScores(summary=summary, samples=samples)


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


def markdown(summary: dict[str, Any], wording: Wording = IN_ENGLISH) -> str:
    """A table of all scores."""
    told = [f"# {summary['label']}\n", wording.text(about_scores(summary))]
    if limit := summary["settings"]["limit"]:
        told.append("\n- " + wording.text(Message("eval-limit-tasks", limit=limit)))
    about = "\n".join(told) + "\n"
    lines = [
        wording.text(Message("eval-tasks-head")),
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in summary["scores"]:
        error = "-" if row["stderr"] is None else f"{row['stderr']:.4f}"
        cells = [row["task"], _metric(row), row["shots"], row["questions"], f"{row['value']:.4f}", error]
        lines.append(f"| {' | '.join('-' if cell is None else str(cell) for cell in cells)} |")
    return about + "\n" + "\n".join(lines) + "\n"


def compare(first: ModelScores, second: ModelScores, wording: Wording = IN_ENGLISH) -> str:
    """Both models' scores side by side."""
    one, other = first.summary, second.summary
    found = {(row["task"], row["metric"], row["filter"]): row["value"] for row in one["scores"]}
    lines = [
        wording.text(Message("eval-tasks-compared", first=one["label"], second=other["label"])),
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in other["scores"]:
        before = found[row["task"], row["metric"], row["filter"]]
        cells = [row["task"], _metric(row), f"{before:.4f}", f"{row['value']:.4f}", f"{row['value'] - before:+.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    head = wording.text(Message("eval-against", first=one["label"], second=other["label"]))
    return f"# {head}\n\n" + "\n".join(lines) + "\n"


def _metric(row: dict[str, Any]) -> str:
    return row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"


def places_of(places: Sequence[Path], cache: Path) -> LocalDatasets:
    """Where to look, as typed."""
    return LocalDatasets(places=tuple(place.resolve() for place in places), cache=cache)
