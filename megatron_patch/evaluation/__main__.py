"""`LM-Evaluation-Harness/evaluate.sh`: from a checkpoint to scores, without a network."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_patch.checkpoint.hf_model import HFModel, HFModelError, hf_model_of, remote_code
from megatron_patch.common.files import real_path
from megatron_patch.common.machine import installed_gpus, visible_gpus
from megatron_patch.common.run_folder import PLAN
from megatron_patch.common.terminal import guard
from megatron_patch.evaluation import compare, results
from megatron_patch.evaluation.benchmarks import BENCHMARKS
from megatron_patch.evaluation.data import HARNESS, DataError, LocalData, find_all
from megatron_patch.evaluation.options import Request, UsageError, parse
from megatron_patch.evaluation.run import Evaluation, ModelError, Settings, evaluate

RANK = int(os.environ.get("LOCAL_RANK", "0"))
"""Of the processes that accelerate starts, one for each GPU; the first one speaks and writes."""


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: threads sleep while they wait
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        request = parse(argv)
        if RANK == 0 and request.output and (problems := results.try_folder(request.output)):
            raise UsageError(problems)
        found = [] if request.others else _questions(request)
        if request.others and RANK == 0:
            _check_others(request)
        paths = [path for path in (request.against, request.checkpoint) if path]
        models = [hf_model_of(path, request.hf_path, request.cache) for path in paths]
    except (UsageError, DataError) as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 2
    except HFModelError as error:
        print(f"CHECKPOINT: {error}", file=sys.stderr)
        return error.status
    places = [_output(request, model) for model in models]
    if RANK == 0 and (
        problems := [problem for place in dict.fromkeys(places) for problem in results.try_folder(place)]
    ):
        print(*problems, sep="\n", file=sys.stderr)
        return 2
    if "LOCAL_RANK" not in os.environ and (gpus := _gpus(request.settings)) > 1:
        return _on_all_gpus(gpus, argv)
    if RANK == 0 and found:
        print(*(data.describe() for data in found), sep="\n")
    command = shlex.join(["sh", "LM-Evaluation-Harness/evaluate.sh", *argv])
    try:
        if request.others:
            return _score_others(request, models, places, command)
        done = [_one(request, *each, found, command) for each in zip(models, places, strict=True)]
        if len(done) == 2 and RANK == 0:
            _compare(done)
    except HFModelError as error:
        print(f"CHECKPOINT: {error}", file=sys.stderr)
        return error.status
    except (ModelError, results.Unwritten) as error:
        print(error, file=sys.stderr)
        return error.status
    return 0


def _questions(request: Request) -> list[LocalData]:
    """Of CMMLU and C-Eval."""
    benchmarks = [BENCHMARKS[name] for name in request.settings.benchmarks()]
    return list(find_all(benchmarks, request.places, request.cache).values())


def _check_others(request: Request) -> None:
    from megatron_patch.evaluation import any_tasks  # lm_eval: seconds

    leaves = any_tasks.check(request.settings.tasks, any_tasks.places_of(request.places, request.cache))
    print(f"{len(leaves)} of lm_eval's tasks, with data of this machine", flush=True)


def _score_others(request: Request, models: Sequence[HFModel], places: Sequence[Path], command: str) -> int:
    from megatron_patch.evaluation import any_tasks

    data = any_tasks.places_of(request.places, request.cache)
    how = any_tasks.HowToAsk(num_fewshot=request.num_fewshot, chat_template=request.chat_template)
    done: list[any_tasks.Scores] = []
    for model, folder in zip(models, places, strict=True):
        if RANK == 0:
            print(f"\n{model.label}: {model.folder}")
            _say_remote_code(model, request.settings)
        scores = any_tasks.evaluate(model, data, request.settings, how)
        if scores is None:
            continue
        scores.summary["command"] = command
        print(any_tasks.markdown(scores.summary))
        print(*(f"wrote {file}" for file in results.put(folder, scores.files())), sep="\n", flush=True)
        done.append(scores)
    if len(done) == 2:
        table = any_tasks.compare(*done)
        print("\n" + table)
        print(*(f"wrote {file}" for file in results.put(places[-1], {any_tasks.COMPARISON: table})), sep="\n")
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
    request: Request, model: HFModel, folder: Path, found: list[LocalData], command: str
) -> tuple[Evaluation, Path] | None:
    """Evaluate one model, and write what it scored; None on ranks that only help."""
    if RANK == 0:
        print(f"\n{model.label}: {model.folder}")
        _say_remote_code(model, request.settings)
    evaluation = evaluate(model, found, request.settings)
    if evaluation is None:
        return None
    evaluation.summary["command"] = command
    head, rows = ("Group", "groups") if evaluation.summary["groups"] else ("Subject", "subjects")
    print(results.table(head, evaluation.summary[rows], lambda row: row["title"]))
    seconds, rate = evaluation.summary["seconds"]["evaluation"], evaluation.summary["choices_per_second"]
    print(
        f"{evaluation.summary['choices']} choices in {seconds:.1f} s, {rate:.0f} a second, after the model was loaded"
    )
    print(*(f"wrote {file}" for file in results.write(evaluation, folder)), sep="\n", flush=True)
    return evaluation, folder


def _say_remote_code(model: HFModel, settings: Settings) -> None:
    lines = remote_code(model.folder)
    if lines:
        said = "will run" if settings.trust_remote_code else "is NOT run (--trust-remote-code would run it)"
        print(f"the checkpoint brings code, which {said}:", *lines, sep="\n  ", flush=True)


def _output(request: Request, model: HFModel) -> Path:
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
    print("\n" + compare.markdown({**comparison, "subjects": []}))
    print(*(f"wrote {file}" for file in compare.write(comparison, folder)), sep="\n")


if __name__ == "__main__":
    guard(bars=True)
    sys.exit(main(sys.argv[1:]))
