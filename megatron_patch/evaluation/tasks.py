"""lm_eval's own task definitions, with their questions taken from this machine and without the slow start.

Plain lm_eval 0.4.13 reads 12,000 task files to find these two groups (6 s), lets `datasets` convert every CSV file
to Arrow (10 s for 119 subjects), and compiles each prompt template anew for each question (3 ms a question). None
of that changes a prompt: tests compare prompts, questions and their hashes with those of the unmodified way.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.evaluator
import lm_eval.tasks
import lm_eval.utils
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager, _factory

from megatron_patch.evaluation.data import LocalData


def task_manager() -> TaskManager:
    """A task manager that knows CMMLU's and C-Eval's tasks, from the files of the installed lm_eval."""
    installed = Path(lm_eval.tasks.__file__).parent
    return TaskManager(include_defaults=False, include_path=[installed / "cmmlu", installed / "ceval"])


@contextmanager
def local_questions(found: Sequence[LocalData]) -> Iterator[None]:
    """Inside, lm_eval's tasks have the questions of `found` and each template is compiled once."""
    by_path = {data.benchmark.hub_path: data for data in found}

    class LocalTask(ConfigurableTask):
        """Upstream calls `datasets.load_dataset(DATASET_PATH, DATASET_NAME)` here."""

        def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            self.dataset = _dataset(by_path[self.DATASET_PATH], self.DATASET_NAME)

    template = functools.cache(lm_eval.utils.env.from_string)
    with (
        replaced(_factory, "ConfigurableTask", LocalTask),
        replaced(lm_eval.utils.env, "from_string", template),
        replaced(lm_eval.api.task, "tqdm", lambda rows, **_: rows),  # a bar of its own for every subject
        replaced(lm_eval.evaluator, "get_git_commit_hash", lambda: None),  # git's "fatal:" outside of a repository
    ):
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, an attribute has another value."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _dataset(data: LocalData, subject: str) -> datasets.DatasetDict:
    text = datasets.Features(dict.fromkeys(data.benchmark.columns, datasets.Value("string")))
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(rows, features=text) for split, rows in data.questions[subject].items()}
    )
