"""Run lm_eval on one model and take its answers apart."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from megatron_patch.checkpoint.hf_model import HFModel
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import as_json
from megatron_patch.evaluation.benchmarks import BENCHMARKS, task_owner
from megatron_patch.evaluation.data import LocalData

if TYPE_CHECKING:
    from megatron_patch.evaluation.scoring import FastHFLM

SCORINGS = ("exact", "shared", "plain")
"""See scoring.py."""
TOKENS_PER_BATCH = {"cpu": 2048}
"""Of `shared` scoring; a GPU wants more."""


class ModelError(UserError, ValueError):
    """A model that cannot be evaluated."""

    status = 1
    """Exit status."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How models are evaluated; equal for those that are compared."""

    tasks: tuple[str, ...] = tuple(BENCHMARKS)
    num_fewshot: int = 0
    batch_size: int = 16
    limit: int | None = None
    """Questions per subject, from the first."""
    scoring: str = "exact"
    tokens_per_batch: int | None = None
    """Of `shared` scoring; None takes what suits the device."""
    device: str | None = None
    """None takes CUDA where there is one."""
    dtype: str = "auto"
    """`auto` is the checkpoint's."""
    trust_remote_code: bool = False

    def benchmarks(self) -> list[str]:
        """Names of the benchmarks that the tasks belong to."""
        owners = [task if task in BENCHMARKS else task_owner(task)[0].name for task in self.tasks]  # type: ignore[index]
        return list(dict.fromkeys(owners))


@dataclass(kw_only=True)
class Evaluation:
    """One model's results."""

    summary: dict[str, Any]
    """What `results.json` holds."""
    answers: list[dict[str, Any]]
    """What `per_question.jsonl` holds."""


def evaluate(model: HFModel, found: Sequence[LocalData], settings: Settings) -> Evaluation | None:
    """Score a model; None on the ranks other than the first, where several GPUs share the work.

    Raises:
        ModelError: it cannot be loaded, does not fit, or gives NaN or inf.
    """
    started = time.monotonic()
    lm = load_model(model, settings)
    loaded = time.monotonic()
    results = _ask(lm, found, settings)
    if results is None:
        return None
    asked = time.monotonic() - loaded
    samples = {task: sorted(rows, key=lambda row: row["doc_id"]) for task, rows in results["samples"].items()}
    answers = [_answer(task, sample) for task, rows in samples.items() for sample in rows]
    if wrong := sum(not all(map(math.isfinite, answer["logprobs"])) for answer in answers):
        counts = {"wrong": wrong, "questions": len(answers)}
        raise ModelError.at("CHECKPOINT", "eval-nan-logprobs", folder=model.folder, **counts)
    choices = sum(len(answer["logprobs"]) for answer in answers)
    summary = {
        **about_model(model, lm),
        "settings": asdict(settings),
        "versions": {name: version(name) for name in ("lm-eval", "transformers", "torch")},
        "data": {data.benchmark.name: _about_data(data) for data in found},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {
            "load": round(loaded - started, 3),
            "scoring": round(lm.scoring_seconds, 3),
            "evaluation": round(asked, 3),
        },
        "choices": choices,
        "choices_per_second": round(choices / asked, 1),
        **_scores(results),
    }
    return Evaluation(summary=summary, answers=answers)


def load_model(model: HFModel, settings: Settings) -> FastHFLM:
    """lm_eval's model.

    Raises:
        ModelError: it cannot be loaded.
    """
    import torch  # seconds: not before the arguments and the data are known to be good

    from megatron_patch.evaluation.scoring import FastHFLM

    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return FastHFLM(
            pretrained=str(model.folder),
            batch_size=settings.batch_size,
            device=device,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            scoring=settings.scoring,
            tokens_per_batch=settings.tokens_per_batch or TOKENS_PER_BATCH.get(device, 16384),
        )
    except Exception as error:  # whatever transformers makes of a foreign folder
        where = {"folder": model.folder, "device": device}
        raise ModelError.at("CHECKPOINT", "generate-not-loaded", **where, error=_in_a_line(error)) from error


def _in_a_line(error: Exception) -> str:
    """Kind and first line of an exception."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}".removesuffix(": ")


def _ask(lm: FastHFLM, found: Sequence[LocalData], settings: Settings) -> dict[str, Any] | None:
    """lm_eval's own results, each answer among them; None on ranks that only help."""
    import lm_eval
    import torch

    from megatron_patch.evaluation.tasks import local_questions, task_manager

    with local_questions(found):
        try:
            results: dict[str, Any] | None = lm_eval.simple_evaluate(
                model=lm,
                tasks=list(settings.tasks),
                task_manager=task_manager(),
                num_fewshot=settings.num_fewshot or None,
                batch_size=settings.batch_size,
                limit=settings.limit,
            )
        except torch.OutOfMemoryError as error:
            raise ModelError.at(
                "--batch-size", "eval-memory", size=settings.batch_size, error=_in_a_line(error)
            ) from error
    return results


def about_model(model: HFModel, lm: FastHFLM) -> dict[str, Any]:
    """What results say of the model."""
    import torch

    return {
        "checkpoint": model.given,
        "label": model.label,
        "folder": str(model.folder),
        "exported_from": str(model.exported_from) if model.exported_from else None,
        "identity": model.identity,
        "parameters": lm.model.num_parameters(),
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(lm.device) if lm.device.type == "cuda" else "cpu",
        "devices": lm.world_size,
        "scoring_used": lm.scoring,
    }


def _about_data(data: LocalData) -> dict[str, Any]:
    return {
        "title": data.benchmark.title,
        "folder": str(data.folder),
        "fingerprint": data.fingerprint,
        "notes": list(map(str, data.notes)),
        "messages": as_json(data.notes),
    }


def _scores(results: dict[str, Any]) -> dict[str, Any]:
    """lm_eval's own figures: one row for each group, one for each subject."""
    groups, subjects = [], []
    for name, figures in results["results"].items():
        row = {
            "acc": figures["acc,none"],
            "stderr": _number(figures["acc_stderr,none"]),
            "acc_norm": figures["acc_norm,none"],
        }
        if owner := task_owner(name):
            benchmark, subject = owner
            facts = {"title": subject.title, "title_zh": subject.title_zh, "category": subject.category}
            questions = results["n-samples"][name]["effective"]
            subjects.append({"task": name, "benchmark": benchmark.name, **facts, "questions": questions, **row})
        else:
            groups.append({"group": name, "title": BENCHMARKS[name].title, **row})
    for group in groups:
        group["questions"] = sum(s["questions"] for s in subjects if s["benchmark"] == group["group"])
        if group["stderr"] is None:  # lm_eval pools those of subjects, which one question does not have
            group["stderr"] = share_stderr(group["acc"], group["questions"])
    return {"groups": groups, "subjects": subjects}


def share_stderr(share: float, count: int) -> float | None:
    """Standard error of a share of right answers, as lm_eval computes it; None for fewer than two."""
    return math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None


def _number(value: Any) -> float | None:
    """lm_eval writes N/A where one question gives no standard error."""
    return None if isinstance(value, str) else float(value)


def _answer(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    logprobs = [answer[0] for answer in sample["filtered_resps"]]
    return {
        "task": task,
        "doc_id": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "prompt_hash": sample["prompt_hash"],
        "target": sample["target"],
        "choice": max(range(len(logprobs)), key=logprobs.__getitem__),
        "logprobs": logprobs,
        "acc": sample["acc"],
    }
