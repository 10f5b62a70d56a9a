"""Standard errors, against formulas written out another way."""

from __future__ import annotations

import random
import statistics

import pytest

from megatron_patch.evaluation import results
from megatron_patch.evaluation.benchmarks import CMMLU
from megatron_patch.evaluation.compare import NotComparable, compare, markdown, verdict
from megatron_patch.evaluation.run import Evaluation


def evaluation(name: str, right: list[bool]) -> Evaluation:
    """Answers to the first subject's questions and then to the second's."""
    tasks = CMMLU.tasks()[:2]
    answers = [
        {
            "task": tasks[2 * number // len(right)],
            "doc_id": number,
            "prompt_hash": str(number),
            "choice": int(good),
            "logprobs": [0.0, float(good)],
            "acc": float(good),
        }
        for number, good in enumerate(right)
    ]
    data = {"cmmlu": {"title": "CMMLU", "fingerprint": "f", "notes": []}}
    settings = {"tasks": ["cmmlu"], "num_fewshot": 0, "limit": None}
    summary = {"label": name, "checkpoint": name, "identity": name * 6, "data": data, "settings": settings}
    return Evaluation(summary=summary, answers=answers)


def test_differences_have_paired_standard_errors() -> None:
    draw = random.Random(5)
    first = [draw.random() < 0.4 for _ in range(200)]
    second = [draw.random() < 0.6 if draw.random() < 0.3 else good for good in first]
    comparison = compare(evaluation("a", first), evaluation("b", second))
    gaps = [int(b) - int(a) for a, b in zip(first, second, strict=True)]
    row = comparison["groups"][0]
    assert row["difference"] == pytest.approx(statistics.mean(gaps))
    assert row["stderr"] == pytest.approx(statistics.stdev(gaps) / 200**0.5)
    assert row["acc_stderr"][0] == pytest.approx(statistics.stdev(map(int, first)) / 200**0.5)
    assert (row["gained"], row["lost"]) == (gaps.count(1), gaps.count(-1))
    assert [row["questions"] for row in comparison["subjects"]] == [100, 100]
    unpaired = sum(error**2 for error in row["acc_stderr"]) ** 0.5
    assert row["stderr"] < unpaired
    assert comparison["answers_changed"] == gaps.count(1) + gaps.count(-1)
    assert "+" in markdown(comparison)


def test_equal_answers_are_called_identical() -> None:
    comparison = compare(evaluation("a", [True, False]), evaluation("b", [True, False]))
    assert comparison["identical"]
    assert "exactly the same log-likelihoods on all 2 questions" in str(verdict(comparison))
    assert comparison["subjects"][0]["stderr"] is None, "one question has no standard error"


def test_other_questions_are_not_compared() -> None:
    other = evaluation("b", [True])
    other.summary["data"]["cmmlu"]["fingerprint"] = "g"
    other.summary["settings"]["limit"] = 3
    with pytest.raises(NotComparable) as caught:
        compare(evaluation("a", [True]), other)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["limit", "data"]
    other = evaluation("b", [True])
    other.answers[0]["prompt_hash"] = "x"
    with pytest.raises(NotComparable, match="1 prompt differs"):
        compare(evaluation("a", [True]), other)


def test_categories_add_up() -> None:
    subjects = [
        {"benchmark": "cmmlu", "category": category, "acc": acc, "questions": count}
        for category, acc, count in (("Other", 0.5, 10), ("STEM", 1.0, 30), ("Other", 0.25, 20))
    ]
    stem, other = results.categories(subjects)
    assert (stem["category"], stem["questions"], stem["acc"]) == ("STEM", 30, 1.0)
    assert (other["questions"], other["acc"]) == (30, pytest.approx(1 / 3))
