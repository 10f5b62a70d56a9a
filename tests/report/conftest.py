"""A folder as the quickstart leaves it: two runs, a layer check, two evaluations, the commands."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.checkpoint.check.compare import PARTS, PartComparison
from megatron_patch.checkpoint.check.report import CheckReport
from megatron_patch.evaluation import results, synthetic
from megatron_patch.evaluation.benchmarks import BENCHMARKS
from megatron_patch.evaluation.data import find_all
from megatron_patch.evaluation.run import Evaluation, share_stderr
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import content_of
from megatron_patch.runs.folder import write_plan

from ..launch.conftest import VALUES, write_idxmap, write_tokenizer

SCRIPT = "</script><b>&"
"""Must come out as text wherever it goes in."""


def metrics(iterations: int, *, loss: float = 7.6) -> list[dict]:
    """What the trainer writes for each iteration, and a validation every ten."""
    draw, lines = random.Random(iterations), []
    for i in range(1, iterations + 1):
        value = 2 + (loss - 2) * math.exp(-i / 40) + draw.uniform(-0.2, 0.2)
        speed = 10240.0 + draw.uniform(-500, 500)
        step = {"iteration": i, "loss": value, "lr": 1e-3 * min(1, i / 8), "grad_norm": draw.uniform(0.5, 3)}
        step |= {"tokens": 1024 * i, "step_ms": 100.0, "tokens_per_s_per_gpu": speed, "tflops_per_gpu": 400.0}
        lines.append({**step, "peak_memory_bytes": 900 << 20})
        lines += [{"iteration": i, "validation_loss": value + 0.1}] if i % 10 == 0 else []
    return lines


def write_metrics(folder: Path, lines: list[dict], torn: str = "") -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + torn)


@pytest.fixture(scope="session")
def new_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a run of 120 iterations as the driver plans it; `done` of them are recorded."""
    root = tmp_path_factory.mktemp("planned").resolve()
    write_tokenizer(root / "tokenizer")
    for name in ("text", "valid"):
        write_idxmap(root / name)

    def make(folder: Path, done: int = 120, torn: str = "") -> Path:
        folder.mkdir(parents=True)
        values = VALUES.replace("10240 1024", "122880 8192").split()
        values = [str(root / v) if v in ("text", "valid") else v for v in values[:-1]] + [str(folder)]
        plan, _, problems = make_plan(
            values, {"MP_TOKENIZER_PATH": str(root / "tokenizer"), "MP_NPROC": "1"}, dry_run=True
        )
        assert plan, problems
        write_plan(folder, content_of(plan))
        (folder / "command.txt").write_text("python -m torch.distributed.run \\\n    --nproc-per-node 1\n")
        write_metrics(folder, metrics(done), torn)
        (folder / "logs").mkdir()
        log = [f"WARNING: it took {n} s {SCRIPT}" for n in range(3)] + ["RuntimeError: no"]
        (folder / "logs/rank_0.log").write_text("\n".join(log) + "\n")
        return folder

    return make


def write_check(folder: Path, *, wrong: bool = False) -> None:
    """A check of four layers; the attention of the third can be far off."""
    rows = [
        PartComparison(
            layer=None if part in ("embedding", "final_norm", "logits") else layer,
            part=part,
            mode=mode,
            precision="bf16",
            max_abs=1e-3,
            relative_l2=0.3 if wrong and (layer, part) == (2, "attention") else 1e-6 * (layer + 1),
            cosine=1.0,
            tolerance=1e-2,
        )
        for layer in range(4)
        for part in PARTS
        for mode in ("same input", "accumulated")
    ]
    folder.mkdir(parents=True)
    about = {"precision": "bf16", "tp": 1, "pp": 1, "tokens": "3 sequences of 256 tokens"}
    CheckReport(rows=rows, about=about).write(folder)


def evaluation(label: str, questions: Path, share: float) -> Evaluation:
    """Answers of somebody who is right that often."""
    found, draw = find_all(list(BENCHMARKS.values()), [questions]), random.Random(label)
    answers, subjects, groups = [], [], []
    for name, data in found.items():
        right = []
        for subject in data.benchmark.subjects:
            task = data.benchmark.task_prefix + subject.name
            own = [float(draw.random() < share) for _ in data.questions[subject.name][data.benchmark.scored_split]]
            answers += [
                {"task": task, "doc_id": i, "prompt_hash": f"{task} {i}", "choice": int(acc), "acc": acc,
                 "logprobs": [draw.random() for _ in range(4)]}
                for i, acc in enumerate(own)
            ]  # fmt: skip
            acc = sum(own) / len(own)
            row = {"acc": acc, "stderr": share_stderr(acc, len(own)), "questions": len(own)}
            facts = {"title": subject.title, "title_zh": subject.title_zh, "category": subject.category}
            subjects.append({"task": task, "benchmark": name, **facts, **row})
            right += own
        acc = sum(right) / len(right)
        row = {"acc": acc, "stderr": share_stderr(acc, len(right)), "questions": len(right)}
        groups.append({"group": name, "title": data.benchmark.title, **row})
    settings = {"tasks": list(found), "num_fewshot": 0, "limit": None}
    about = {
        n: {"title": d.benchmark.title, "fingerprint": d.fingerprint, "notes": list(map(str, d.notes))}
        for n, d in found.items()
    }
    summary = {
        "checkpoint": label, "label": label, "identity": label * 8, "parameters": 1, "dtype": "float32",
        "device": "cpu", "devices": 1, "scoring_used": "exact", "settings": settings, "versions": {"lm-eval": "0.4.13"},
        "data": about, "date": f"2026-11-2{int(share * 10)}", "choices_per_second": 100.0, "groups": groups,
        "subjects": subjects, "command": f"sh LM-Evaluation-Harness/evaluate.sh {label} {SCRIPT}",
    }  # fmt: skip
    return Evaluation(summary=summary, answers=answers)


def write_tasks(folder: Path, label: str, share: float, **changed: object) -> None:
    """tasks.json of one model, with figures as lm_eval has them: an accuracy, a filtered one, a perplexity."""
    rows = [("hellaswag", "acc_norm", "none", share, 0.05), ("gsm8k", "exact_match", "strict-match", share / 2, 0.02)]
    rows += [("wikitext", "word_perplexity", "none", 31.25, None)]
    scores = [
        {"task": task, "metric": metric, "filter": name, "value": value, "stderr": error, "questions": 20, "shots": 0}
        for task, metric, name, value, error in rows
    ]
    summary = {
        "checkpoint": label, "label": label, "identity": label * 8, "dtype": "float32", "device": "cpu", "devices": 1,
        "scoring_used": "plain", "versions": {"lm-eval": "0.4.13"}, "date": f"2026-11-2{int(share * 10)}",
        "settings": {"tasks": ["hellaswag", "gsm8k", "wikitext"], "num_fewshot": None, "limit": 20},
        "command": f"sh LM-Evaluation-Harness/evaluate.sh {label} hellaswag {SCRIPT}", "scores": scores, **changed,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tasks.json").write_text(json.dumps(summary))


@pytest.fixture(scope="session")
def life(new_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it."""
    folder = tmp_path_factory.mktemp("life") / "quickstart"
    new_run(folder / "pretrain")
    new_run(folder / "finetune", done=60)
    write_check(folder / "start-mcore")
    synthetic.make(folder / "questions", 2)
    for label, share in (("base", 0.2), ("trained", 0.6)):
        results.write(evaluation(label, folder / "questions", share), folder / "evaluation" / label)
        write_tasks(folder / "evaluation" / label, label, share)
    (folder / "commands.txt").write_text(f"first --of {SCRIPT}\nsecond\nfirst --of {SCRIPT}\n")
    return folder


@pytest.fixture
def copy(life: Path, tmp_path: Path) -> Path:
    """One to change."""
    return Path(shutil.copytree(life, tmp_path / "quickstart"))
