"""Evaluation: plain lm_eval against ours, on the same model, machine and questions, in one run.

    python benchmarks/evaluate.py [--size tiny] [--layers N] [--questions 3|published] [--batch-size 16] [--noise] ...

Makes the questions (invented, in the published layouts; `published` for the published numbers, 12,928 in all), a
tokenizer and a Hugging Face model of the size with random weights, unless --model names one. Then, after one
warm-up each:

    plain    the unmodified path: lm_eval's whole task index, `datasets` (converted to Arrow before, in the warm-up),
             its templates, its `hf` backend
    exact    ours, the default of evaluate.sh: the same floats
    shared   ours, common beginnings once: the floats' last bits differ

and prints seconds by part, requests a second (one for each choice, as lm_eval counts; of scoring alone, and of
everything after the model is loaded), the ratios, and how many answers and log-likelihoods differ from plain.
--noise adds plain at twice the batch size: what plain differs from itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder: lm_eval imports a package that is called `evaluate`

import argparse  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import chdir, contextmanager, nullcontext, redirect_stderr  # noqa: E402
from dataclasses import dataclass, field, replace  # noqa: E402
from typing import Any  # noqa: E402

from megatron_patch.checkpoint.random_model import make_hf_checkpoint  # noqa: E402
from megatron_patch.common.command_line import ArgumentParser  # noqa: E402
from megatron_patch.data.train_tokenizer import save, train  # noqa: E402
from megatron_patch.evaluation import cards, synthetic  # noqa: E402
from megatron_patch.evaluation.benchmarks import BENCHMARKS  # noqa: E402
from megatron_patch.evaluation.data import find_all  # noqa: E402
from megatron_patch.models import AUTO, model_of_size, size_names  # noqa: E402

VOCABULARY = 2048
"""Of the tokenizer: gives prompts of about the length that Llama 3.1's gives the published questions."""


@dataclass(kw_only=True)
class Timing:
    """One way, measured."""

    seconds: dict[str, float] = field(default_factory=dict)
    """By part: index, questions, prompts, scoring."""
    scores: list[list[float]] = field(default_factory=list)
    """Log-likelihoods of the choices of each question."""

    @contextmanager
    def part(self, name: str, wait: Any) -> Iterator[None]:
        """Time a part, until the device is done with it."""
        started = time.perf_counter()
        yield
        wait()
        self.seconds[name] = time.perf_counter() - started

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.seconds.values())


def prepare(args: argparse.Namespace) -> Path:
    """Questions, a folder where the unmodified lm_eval finds them, and the model; returns the model's folder."""
    count = None if args.questions == "published" else int(args.questions)
    folders = synthetic.make(args.work / "questions", count)
    for benchmark in BENCHMARKS.values():
        place = args.work / "harness" / benchmark.hub_path
        place.mkdir(parents=True, exist_ok=True)
        (place / "README.md").write_text(cards.card(benchmark), encoding="utf-8")
        for split in benchmark.splits:
            (place / split).unlink(missing_ok=True)
            (place / split).symlink_to((folders[benchmark.name] / split).resolve())
    if args.model:
        return Path(args.model)
    tokenizer = args.work / "tokenizer"
    if not tokenizer.is_dir():
        corpus = args.work / "corpus.jsonl"
        files = sorted((args.work / "questions").glob("*/*/*.csv"))
        lines = [json.dumps({"text": file.read_text(encoding="utf-8")}) + "\n" for file in files]
        corpus.write_text("".join([*lines, json.dumps({"text": "答案： A B C D"}) + "\n"]))
        save(train([corpus], vocab_size=VOCABULARY), tokenizer)
    shape = model_of_size(args.size)
    shape = replace(shape, num_layers=args.layers or shape.num_layers)
    vocab = shape.vocab_size or VOCABULARY
    target: Path = args.work / f"{args.size}-{shape.num_layers}-{args.precision}"
    if not target.is_dir():
        started = time.perf_counter()
        make_hf_checkpoint(
            target, shape, precision=args.precision, vocab_size=vocab, tokenizer=tokenizer, workers=os.cpu_count() or 2
        )
        print(f"made {target} in {time.perf_counter() - started:.0f} s: {shape.num_parameters(vocab):,} parameters")
    return target


def measure(lm: Any, way: str, args: argparse.Namespace, batch_size: int) -> Timing:
    """Everything from the task names to the scores, on a loaded model."""
    import lm_eval.tasks

    from megatron_patch.evaluation.tasks import local_questions, task_manager

    def wait() -> None:
        if lm.device.type == "cuda":
            import torch

            torch.cuda.synchronize()

    timing, plain = Timing(), way.startswith("plain")
    lm.scoring, lm.batch_size_per_gpu = ("plain" if plain else way), batch_size
    with timing.part("index", wait):
        manager = lm_eval.tasks.TaskManager() if plain else task_manager()
    found = [] if plain else list(find_all(list(BENCHMARKS.values()), [args.work / "questions"]).values())
    with nullcontext() if plain else local_questions(found), chdir(args.work / "harness"):
        with timing.part("questions", wait):
            tasks = manager.load(list(BENCHMARKS))["tasks"]
        with timing.part("prompts", wait), redirect_stderr(io.StringIO()):  # plain draws a bar for every subject
            for task in tasks.values():
                task.set_config(key="num_fewshot", value=args.num_fewshot)
                task.set_fewshot_seed(seed=1234)
                task.build_all_requests(rank=0, world_size=1)
    requests = [one for task in tasks.values() for one in task.instances]
    with timing.part("scoring", wait):
        answers = lm.loglikelihood(requests, disable_tqdm=True)
    values = [score for score, _ in answers]
    timing.scores = [values[begin : begin + 4] for begin in range(0, len(values), 4)]
    return timing


def warm_up(lm: Any, ways: list[str], args: argparse.Namespace) -> None:
    """Questions converted to Arrow; a few batches of each way, so that kernels are chosen and memory is taken."""
    from lm_eval.api.instance import Instance

    from megatron_patch.evaluation.tasks import task_manager

    started, batch_size = time.perf_counter(), args.batch_size
    with chdir(args.work / "harness"):
        task_manager().load(list(BENCHMARKS))
    print(f"converted the questions to Arrow in {time.perf_counter() - started:.0f} s (plain needs that once)")

    def one(number: int, choice: str) -> Instance:
        prompt = f"以下是关于农学的单项选择题。\n\n第{number}题" + "数据" * 40 + "\n答案："
        return Instance(request_type="loglikelihood", doc={}, arguments=(prompt, choice), idx=0, metadata=("t", 0, 1))

    lm.batch_size_per_gpu = batch_size
    for way in ways:
        lm.scoring = "plain" if way.startswith("plain") else way
        lm.loglikelihood([one(n, f" {c}") for n in range(4 * batch_size) for c in "ABCD"], disable_tqdm=True)


def report(timings: dict[str, Timing], tokens: float) -> dict[str, Any]:
    """Print the table, against the first way; the same as a dictionary."""
    first, plain = next(iter(timings.items()))
    requests = sum(map(len, plain.scores))
    print(f"\n{len(plain.scores)} questions, {requests} requests, {tokens:.0f} tokens a prompt on average")
    parts = list(plain.seconds)
    print(f"{'':>8} {''.join(f'{part:>11}' for part in parts)}{'total, s':>11}  requests/s: scoring    total   ratio")
    summary: dict[str, Any] = {"questions": len(plain.scores), "requests": requests, "tokens_per_prompt": tokens}
    for way, timing in timings.items():
        scoring, total = requests / timing.seconds["scoring"], requests / timing.total
        ratios = (plain.seconds["scoring"] / timing.seconds["scoring"], plain.total / timing.total)
        columns = "".join(f"{timing.seconds[part]:11.2f}" for part in parts)
        print(
            f"{way:>8} {columns}{timing.total:11.2f}  {scoring:18.0f} {total:9.0f}   "
            f"{ratios[0]:.2f} scoring, {ratios[1]:.2f} total"
        )
        summary[way] = {
            "seconds": timing.seconds,
            "requests_per_s": [scoring, total],
            "scoring_ratio": ratios[0],
            "total_ratio": ratios[1],
        }
        if way != first:
            summary[way] |= difference(plain.scores, timing.scores)
            print(f"{'':>8} {summary[way]['said']}")
    return summary


def difference(plain: list[list[float]], other: list[list[float]]) -> dict[str, Any]:
    """Answers and log-likelihoods that are not the reference's."""
    best = [(a.index(max(a)), b.index(max(b))) for a, b in zip(plain, other, strict=True)]
    changed = sum(a != b for a, b in best)
    gaps = [abs(x - y) for a, b in zip(plain, other, strict=True) for x, y in zip(a, b, strict=True)]
    unequal = sum(gap > 0 for gap in gaps)
    said = "every log-likelihood is the same float" if not unequal else (
        f"{changed} of {len(best)} answers differ, {unequal} of {len(gaps)} log-likelihoods, by at most {max(gaps):.3g}"
    )  # fmt: skip
    return {"said": said, "answers_changed": changed, "unequal": unequal, "largest": max(gaps)}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=[name for name in size_names() if name != AUTO])
    parser.add_argument("--layers", type=int, help="default: the size's own")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--model", type=Path, help="a Hugging Face folder, instead of a random model")
    parser.add_argument("--questions", default="3", help="per subject, or 'published'")
    parser.add_argument("--num-fewshot", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens-per-batch", type=int, help="of shared; default: as evaluate.sh")
    parser.add_argument("--ways", default="plain,exact,shared", help="which, in this order; the first is the reference")
    parser.add_argument("--noise", action="store_true", help="also plain at twice the batch size")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark_evaluate"), help="gets everything made")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    args.work = args.work.resolve()
    return args


def main() -> int:
    """Measure and print."""
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HOME"] = str(args.work / f"hf-{args.questions}")  # `datasets` does not see that files changed
    model = prepare(args)

    import datasets
    import torch

    from megatron_patch.evaluation.run import TOKENS_PER_BATCH
    from megatron_patch.evaluation.scoring import FastHFLM

    datasets.disable_progress_bars()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens_per_batch = args.tokens_per_batch or TOKENS_PER_BATCH.get(device, 16384)
    lm = FastHFLM(
        pretrained=str(model), batch_size=args.batch_size, device=device, tokens_per_batch=tokens_per_batch
    )  # fmt: skip
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{model.name} on {name}, batches of {args.batch_size}; shared: of {tokens_per_batch} tokens")
    ways = args.ways.split(",")
    warm_up(lm, ways, args)
    timings = {way: measure(lm, way, args, args.batch_size) for way in ways}
    if args.noise:
        timings["plain x2"] = measure(lm, "plain x2", args, 2 * args.batch_size)
    found = find_all(list(BENCHMARKS.values()), [args.work / "questions"])
    summary = report(timings, mean_tokens(lm, found, args))
    if args.json:
        args.json.write_text(json.dumps({"model": model.name, "device": name, **summary}, indent=1) + "\n")
    return 0


def mean_tokens(lm: Any, found: dict[str, Any], args: argparse.Namespace) -> float:
    """Tokens of a prompt, on average over the first subjects."""
    from megatron_patch.evaluation.tasks import local_questions, task_manager

    lengths = []
    with local_questions(list(found.values())):
        for task in task_manager().load(["cmmlu_agronomy", "cmmlu_virology", "ceval-valid_law"])["tasks"].values():
            task.set_config(key="num_fewshot", value=args.num_fewshot)
            task.set_fewshot_seed(seed=1234)
            task.build_all_requests(rank=0, world_size=1)
            lengths += [len(lm.tok_encode(one.args[0])) for one in task.instances[::4]]
    return sum(lengths) / len(lengths)


if __name__ == "__main__":
    sys.exit(main())
