"""`LM-Evaluation-Harness/evaluate.sh`: from a checkpoint to scores, without a network."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.hf_model import HFModel, HFModelError, hf_model_of, remote_code
from megatron_patch.common.errors import UsageError, print_error
from megatron_patch.common.files import real_path
from megatron_patch.common.machine import installed_gpus, visible_gpus
from megatron_patch.common.messages import Message, language_of, localized, say, wording_of
from megatron_patch.common.terminal import guard
from megatron_patch.evaluation import compare, results
from megatron_patch.evaluation.benchmarks import BENCHMARKS
from megatron_patch.evaluation.data import HARNESS, LocalData, QuestionsError, find_all
from megatron_patch.evaluation.options import EvaluationRequest, parse
from megatron_patch.evaluation.run import Evaluation, ModelError, Settings, evaluate
from megatron_patch.runs.folder import PLAN

RANK = int(os.environ.get("LOCAL_RANK", "0"))
"""Of the processes that accelerate starts, one for each GPU; the first one speaks and writes."""


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: threads sleep while they wait
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        request = parse(argv)
        if RANK == 0 and request.output and (problems := results.try_folder(request.output)):
            raise UsageError.of(problems)
        found = [] if request.others else _questions(request)
        if request.others and RANK == 0:
            _check_others(request)
        paths = [path for path in (request.against, request.checkpoint) if path]
        models = [hf_model_of(path, request.hf_path, request.cache) for path in paths]
    except (UsageError, QuestionsError) as error:
        print_error(error, os.environ)
        return 2
    except HFModelError as error:
        print_error(error.about("CHECKPOINT"), os.environ)
        return error.status
    places = [_output(request, model) for model in models]
    if RANK == 0 and (
        problems := [problem for place in dict.fromkeys(places) for problem in results.try_folder(place)]
    ):
        print_error(UsageError.of(problems), os.environ)
        return 2
    if "LOCAL_RANK" not in os.environ and (gpus := _gpus(request.settings)) > 1:
        return _on_all_gpus(gpus, argv)
    if RANK == 0 and found:
        print(*(data.describe().localized() for data in found), sep="\n")
    command = shlex.join(["sh", "LM-Evaluation-Harness/evaluate.sh", *argv])
    try:
        if request.others:
            return _score_others(request, models, places, command)
        done = [_one(request, *each, found, command) for each in zip(models, places, strict=True)]
        if len(done) == 2 and RANK == 0:
            _compare(done)
    except HFModelError as error:
        print_error(error.about("CHECKPOINT"), os.environ)
        return error.status
    except (ModelError, results.Unwritten) as error:
        print_error(error, os.environ)
        return error.status
    return 0


def _questions(request: EvaluationRequest) -> list[LocalData]:
    """Of CMMLU and C-Eval."""
    benchmarks = [BENCHMARKS[name] for name in request.settings.benchmarks()]
    return list(find_all(benchmarks, request.places, request.cache).values())


def _check_others(request: EvaluationRequest) -> None:
    from megatron_patch.evaluation import any_tasks  # lm_eval: seconds

    leaves = any_tasks.check(request.settings.tasks, any_tasks.places_of(request.places, request.cache))
    say("eval-tasks", tasks=len(leaves))


def _score_others(request: EvaluationRequest, models: Sequence[HFModel], places: Sequence[Path], command: str) -> int:
    from megatron_patch.evaluation import any_tasks

    data = any_tasks.places_of(request.places, request.cache)
    how = any_tasks.HowToAsk(num_fewshot=request.num_fewshot, chat_template=request.chat_template)
    done: list[any_tasks.ModelScores] = []
    wording = wording_of(os.environ)
    for model, folder in zip(models, places, strict=True):
        if RANK == 0:
            print("\n" + localized("at", path=model.label, what=model.folder))
            _say_remote_code(model, request.settings)
        scores = any_tasks.evaluate(model, data, request.settings, how)
        if scores is None:
            continue
        scores.summary["command"] = command
        print(any_tasks.markdown(scores.summary, wording))
        results.say_written(results.put(folder, scores.files()))
        done.append(scores)
    if len(done) == 2:
        print("\n" + any_tasks.compare(done[0], done[1], wording))
        results.say_written(results.put(places[-1], {any_tasks.COMPARISON: any_tasks.compare(done[0], done[1])}))
    return 0


def _gpus(settings: Settings) -> int:
    if settings.device is not None:
        return 1
    return len(visible_gpus(installed_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")))


def _on_all_gpus(gpus: int, argv: Sequence[str]) -> int:
    """Start this program again, once for each GPU; lm_eval shares the questions out."""
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", str(gpus)]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, "-m", *launcher, "-m", "megatron_patch.evaluation", *argv]
    return subprocess.run(command, check=False).returncode


def _one(
    request: EvaluationRequest, model: HFModel, folder: Path, found: list[LocalData], command: str
) -> tuple[Evaluation, Path] | None:
    """Evaluate one model, and write what it scored; None on ranks that only help."""
    if RANK == 0:
        print("\n" + localized("at", path=model.label, what=model.folder))
        _say_remote_code(model, request.settings)
    evaluation = evaluate(model, found, request.settings)
    if evaluation is None:
        return None
    evaluation.summary["command"] = command
    code, rows = ("eval-group", "groups") if evaluation.summary["groups"] else ("eval-subject", "subjects")
    print(results.table(Message(code), evaluation.summary[rows], _title, wording_of(os.environ)))
    seconds, rate = evaluation.summary["seconds"]["evaluation"], evaluation.summary["choices_per_second"]
    say("eval-speed", choices=evaluation.summary["choices"], seconds=seconds, rate=rate)
    results.say_written(results.write(evaluation, folder))
    return evaluation, folder


def _title(row: dict[str, Any]) -> str:
    """Of a group or subject; subjects have a Chinese one too."""
    chinese = language_of(os.environ) == "zh"
    return str(row.get("title_zh", row["title"]) if chinese else row["title"])


def _say_remote_code(model: HFModel, settings: Settings) -> None:
    lines = remote_code(model.folder)
    if lines:
        code = "remote-code-runs" if settings.trust_remote_code else "remote-code-waits"
        print(localized(code), *lines, sep="\n  ", flush=True)


def _output(request: EvaluationRequest, model: HFModel) -> Path:
    """Where results go: --output, else the run that CHECKPOINT comes from, else a folder of the harness."""
    name = f"{model.label.replace('/', '-')}-{model.identity[:8]}"
    if request.output is not None:
        return request.output / name if request.against else request.output
    above = (real_path(request.checkpoint), *real_path(request.checkpoint).parents)
    run = next((folder for folder in above if (folder / PLAN).is_file()), None)
    return run / "evaluation" / name if run else HARNESS / "results" / name


def _compare(done: Sequence[tuple[Evaluation, Path] | None]) -> None:
    (first, _), (second, folder) = (one for one in done if one is not None)
    comparison = compare.compare(first, second)
    print("\n" + compare.markdown({**comparison, "subjects": []}, wording_of(os.environ)))
    results.say_written(compare.write(comparison, folder))


if __name__ == "__main__":
    guard(bars=True)
    sys.exit(main(sys.argv[1:]))
