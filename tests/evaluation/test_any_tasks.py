"""lm_eval's other tasks, with a few invented rows in the layouts in which their data are published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from megatron_patch.evaluation.__main__ import main
from megatron_patch.report.collect import collect
from megatron_patch.report.task_scores import parts

from .conftest import HARNESS

WORDS = ("river", "stone", "cloud", "bread", "glass", "horse")


def parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(file)


def hellaswag(number: int) -> dict[str, Any]:
    endings = [f"takes the {WORDS[(number + at) % 6]} home" for at in range(4)]
    common = {"ind": number, "activity_label": "Walking", "split": "val", "split_type": "indomain", "source_id": "x"}
    ctx = {"ctx_a": f"A man sees a {WORDS[number % 6]}.", "ctx_b": "he", "ctx": "A man. he"}
    return common | ctx | {"endings": endings, "label": str(number % 4)}


def arc(number: int) -> dict[str, Any]:
    choices = {"text": [f"a {WORDS[(number + at) % 6]}" for at in range(4)], "label": list("ABCD")}
    return {"id": f"q{number}", "question": f"What is {number}?", "choices": choices, "answerKey": "ABCD"[number % 4]}


def gsm8k(number: int) -> dict[str, Any]:
    return {"question": f"What is {number} and 1?", "answer": f"It is <<{number}+1>>.\n#### {number + 1}"}


def mmlu(number: int) -> dict[str, Any]:
    return {"question": f"Which {number}?", "subject": "anatomy", "choices": list(WORDS[:4]), "answer": number % 4}


def winogrande(number: int) -> dict[str, Any]:
    sentence = f"The {WORDS[number % 6]} beat the {WORDS[(number + 1) % 6]} because _ was strong."
    return {"sentence": sentence, "option1": WORDS[number % 6], "option2": "it", "answer": "12"[number % 2]}


def truthfulqa(number: int) -> dict[str, Any]:
    choices = {"choices": ["yes", "no", f"maybe {number}"], "labels": [1, 0, 0]}
    return {"question": f"Is it {number}?", "mc1_targets": choices, "mc2_targets": choices}


LAYOUTS = {
    "hellaswag/data/{split}-00000-of-00001.parquet": (hellaswag, ("train", "validation")),
    "ai2_arc/ARC-Easy/{split}-00000-of-00001.parquet": (arc, ("train", "validation", "test")),
    "ai2_arc/ARC-Challenge/{split}-00000-of-00001.parquet": (arc, ("train", "validation", "test")),
    "openai/gsm8k/main/{split}-00000-of-00001.parquet": (gsm8k, ("train", "test")),
    "mmlu/anatomy/{split}-00000-of-00001.parquet": (mmlu, ("dev", "validation", "test")),
    "winogrande/winogrande_xl/{split}-00000-of-00001.parquet": (winogrande, ("train", "validation", "test")),
    "truthful_qa/multiple_choice/{split}-00000-of-00001.parquet": (truthfulqa, ("validation",)),
}
TASKS = "hellaswag,arc_easy,arc_challenge,gsm8k,mmlu_anatomy,winogrande,truthfulqa_mc1,truthfulqa_mc2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As copied from the hub, without its READMEs."""
    folder = tmp_path_factory.mktemp("data")
    for name, (row, splits) in LAYOUTS.items():
        for split in splits:
            parquet(folder / name.format(split=split), [row(number) for number in range(20)])
    return folder


def scores(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads((folder / "tasks.json").read_text())["scores"]
    return {(row["task"], row["metric"]): row for row in rows}


@pytest.fixture(scope="module")
def ours(model: Path, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    words = [str(model), TASKS, str(place), "--limit", "4", "--output", str(folder / "out"), "--cache", str(folder)]
    assert main(words) == 0
    return folder / "out"


@pytest.mark.slow
def test_every_kind_of_task(ours: Path) -> None:
    """Choices, several metrics, generation with the task's own examples."""
    found = scores(ours)
    assert {task for task, _ in found} == set(TASKS.split(","))
    assert all(row["questions"] == 4 and 0 <= row["value"] <= 1 for row in found.values())
    assert {"acc", "acc_norm"} <= {metric for task, metric in found if task == "hellaswag"}
    assert found["gsm8k", "exact_match"]["shots"] == 5
    samples = [json.loads(line) for line in (ours / "samples.jsonl").read_text().splitlines()]
    assert len([sample for sample in samples if sample["task"] == "gsm8k"]) == 8, "two filters"
    assert "| arc_easy | acc_norm |" in (ours / "tasks.md").read_text()
    (page,) = parts(collect([ours]).tasks)
    assert {row.task for row in page.rows} == set(TASKS.split(","))


@pytest.mark.slow
def test_lm_eval_itself_says_the_same(ours: Path, model: Path, place: Path, tmp_path: Path) -> None:
    """Unmodified, in a folder where it finds the same files under the names of its tasks."""
    (tmp_path / "Rowan").mkdir()
    (tmp_path / "Rowan/hellaswag").symlink_to(place / "hellaswag")
    (tmp_path / "openai").symlink_to(place / "openai")
    arguments = ["--model", "hf", "--model_args", f"pretrained={model},dtype=auto", "--tasks", "hellaswag"]
    arguments += ["--limit", "4", "--batch_size", "16", "--output_path", str(tmp_path / "out"), "--device", "cpu"]
    environ = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "lm_eval", "run", *arguments, "--log_samples"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = tmp_path.glob("out/**/samples_hellaswag_*.jsonl")
    theirs = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [json.loads(line) for line in (ours / "samples.jsonl").read_text().splitlines()]
    mine = [sample for sample in lines if sample["task"] == "hellaswag"]
    assert [one["prompt_hash"] for one in mine] == [one["prompt_hash"] for one in theirs]
    assert [[answer[0] for answer in one["filtered_resps"]] for one in mine] == [
        [float(answer[0]) for answer in one["filtered_resps"]] for one in theirs
    ]


def test_two_models_side_by_side(model: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(model), "arc_easy", str(place), "--against", str(model), "--limit", "3", "--num-fewshot", "2"]
    assert main([*words, "--output", str(tmp_path / "out"), "--cache", str(tmp_path)]) == 0
    assert "| arc_easy | acc | 0" in capsys.readouterr().out
    (file,) = tmp_path.glob("out/*/tasks_comparison.md")
    assert file.read_text().count("+0.0000") == 2
    assert scores(file.parent)["arc_easy", "acc"]["shots"] == 2


def test_other_rows_in_the_same_place_are_read(
    model: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` itself would go on with the old ones."""
    from megatron_patch.evaluation import local_datasets

    def loaded(row: int) -> str:
        parquet(tmp_path / "gsm8k/main/test-00000-of-00001.parquet", [gsm8k(row)])
        local_datasets.fingerprint.cache_clear()
        found = local_datasets.LocalDatasets(places=(tmp_path,), cache=tmp_path / "cache")
        return str(found.load("openai/gsm8k", "main", {})["test"][0]["question"])

    assert (loaded(1), loaded(2)) == ("What is 1 and 1?", "What is 2 and 1?")


def test_a_cache_of_the_hub_is_a_place(tmp_path: Path) -> None:
    from megatron_patch.evaluation.local_datasets import LocalDatasets

    snapshot = tmp_path / "hub/datasets--google--IFEval/snapshots/0123"
    blob = tmp_path / "hub/datasets--google--IFEval/blobs/aa"
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob.write_text(json.dumps({"key": 1, "prompt": "Write.", "instruction_id_list": [], "kwargs": []}) + "\n")
    (snapshot / "ifeval_input_data.jsonl").symlink_to(blob)
    found = LocalDatasets(places=(tmp_path / "hub",), cache=tmp_path).load("google/IFEval", None, {})
    assert found["train"][0]["prompt"] == "Write."


def test_what_is_missing_is_listed_with_its_publisher(
    model: Path, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """All of it, before a model is loaded."""
    parquet(tmp_path / "hellaswag/data/validation-00000-of-00001.parquet", [{"ctx": "no such columns"}])
    parquet(tmp_path / "gsm8k/socratic/test-00000-of-00001.parquet", [gsm8k(1)])
    words = [str(model), "hellaswag,gsm8k,arc_easy,piqa", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert main(words) == 2
    said = capfd.readouterr().err
    assert "DATA: hellaswag: what lies here is not Rowan/hellaswag as its task reads it" in said
    assert "no configuration main; there are: default, socratic" in said
    assert "DATA: arc_easy: allenai/ai2_arc is not in" in said
    assert "https://huggingface.co/datasets/allenai/ai2_arc" in said
    assert "DATA: piqa: " in said and "Traceback" not in said
    assert main([str(model), "helaswag,arc_easy", str(place)]) == 2
    assert "TASKS: 'helaswag' is not a task of lm_eval 0.4.13; nearest: hellaswag" in capfd.readouterr().err


def test_the_scripts_help_names_it() -> None:
    done = subprocess.run(
        ["sh", str(HARNESS / "evaluate.sh"), "--help"], env=os.environ | {"PYTHON": sys.executable},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "--apply-chat-template" in done.stdout and "hellaswag" in done.stdout
