"""Prompts, questions and hashes are those of the unmodified lm_eval, for all 119 subjects."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import pytest
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.utils import hash_string

from megatron_patch.evaluation.benchmarks import BENCHMARKS, CEVAL, CMMLU, task_owner, task_problems
from megatron_patch.evaluation.data import find_all
from megatron_patch.evaluation.tasks import local_questions, task_manager

from .conftest import HARNESS

Prompts = dict[str, list[tuple[str, ...]]]


def prompts(tasks: dict[str, ConfigurableTask], shots: int) -> Prompts:
    """For every task, each choice: the question as read, prompt, choice, hash of the prompt, right answer."""
    found: Prompts = {}
    for name, task in tasks.items():
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=1234)
        task.build_all_requests(rank=0, world_size=1)
        found[name] = [
            (repr(one.doc), *one.args, hash_string(one.args[0]), str(task.doc_to_target(one.doc)))
            for one in task.instances
        ]
    return found


@pytest.fixture(scope="module")
def harness(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LM-Evaluation-Harness with data in place."""
    folder = tmp_path_factory.mktemp("harness")
    for benchmark, name in ((CMMLU, "cmmlu"), (CEVAL, "ceval")):
        (folder / benchmark.hub_path).mkdir(parents=True)
        shutil.copy(HARNESS / benchmark.hub_path / "README.md", folder / benchmark.hub_path)
        for split in benchmark.splits:
            (folder / benchmark.hub_path / split).symlink_to(questions / name / split)
    return folder


def compare_with_unmodified(names: list[str], harness: Path, questions: Path) -> None:
    """Load tasks as lm_eval does where its command is started, and as we do; compare all prompts."""
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(harness)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", harness / "cache")
        unmodified = task_manager().load(names)["tasks"]
    datasets.enable_progress_bars()
    found = find_all(list(BENCHMARKS.values()), [questions])
    with local_questions(list(found.values())):
        ours = task_manager().load(names)["tasks"]
        for shots in (0, 2):
            mine = prompts(ours, shots)
            assert sum(len(choices) for choices in mine.values()) == len(unmodified) * 2 * 4
            assert mine == prompts(unmodified, shots), f"{shots} examples"


def test_prompts_are_upstreams(harness: Path, questions: Path) -> None:
    """Every sixth subject."""
    tasks = [task for benchmark in BENCHMARKS.values() for task in benchmark.tasks()]
    compare_with_unmodified(tasks[::6], harness, questions)


@pytest.mark.slow
def test_prompts_are_upstreams_in_all_subjects(harness: Path, questions: Path) -> None:
    """All 119."""
    compare_with_unmodified(list(BENCHMARKS), harness, questions)


def test_nothing_stays_replaced(questions: Path) -> None:
    import lm_eval.api.task
    import lm_eval.evaluator
    import lm_eval.utils
    from lm_eval.tasks import _factory

    def names() -> list[object]:
        env, evaluator = lm_eval.utils.env, lm_eval.evaluator
        return [_factory.ConfigurableTask, env.from_string, lm_eval.api.task.tqdm, evaluator.get_git_commit_hash]

    before = names()
    with local_questions([]):
        assert all(now is not then for now, then in zip(names(), before, strict=True))
    assert names() == before


def test_our_table_is_lm_evals() -> None:
    manager: TaskManager = task_manager()
    for benchmark in BENCHMARKS.values():
        assert manager.task_index[benchmark.name].cfg["task"] == benchmark.tasks()
        for subject in benchmark.subjects:
            config = manager.task_index[benchmark.task_prefix + subject.name].cfg
            assert config["dataset_path"] == benchmark.hub_path
            assert config["dataset_name"] == subject.name
            assert config.get("test_split", config.get("validation_split")) == benchmark.scored_split
            assert f"关于{subject.title_zh}的" in config["description"]
            assert all(f"{{{{{column}" in config["doc_to_text"] for column in benchmark.columns[:-1])


def test_unknown_and_doubled_task_names_are_told() -> None:
    assert task_owner("ceval-valid_law") == (CEVAL, CEVAL.subject("law"))
    assert task_owner("cmmlu") is None
    assert task_problems(["cmmlu", "ceval-valid_law"]) == []
    problems = task_problems(["cmlu", "cmmlu", "cmmlu_arts", "ceval-valid_law", "ceval-valid_law"])
    told = [(problem.told.code, problem.told.values["name"]) for problem in problems]
    assert told == [("eval-unknown-group", "cmlu"), ("eval-in-group", "cmmlu_arts"), ("eval-twice", "ceval-valid_law")]
