"""Building a cache of conversations: ours against Hugging Face's method, and against another checkout of ours.

    python benchmarks/sft_cache.py [--megabytes 16] [--against TREE] [--repeat 3]

Data: conversations of one to four turns, made of the standard library's sources. Tokenizer: trained on them. Every
figure is CPU time of one process from start to end, the least of several runs taken in turns; each tree also tokenizes
ten rows, and what that takes is subtracted. Hugging Face's method is `apply_chat_template` with the assistant's mask,
one conversation after the other, on a tenth of the data.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tokenization_methods import standard_library  # noqa: E402
from megatron_patch.common.command_line import ArgumentParser  # noqa: E402

BUILD = """
import sys
from pathlib import Path
from megatron_patch.data.sft.cache import CacheSource, open_cache
data, tokenizer, folder = sys.argv[1:]
cache = open_cache(CacheSource.of([data], tokenizer), Path(folder), say=lambda line: None, workers=1)
print(len(cache), int(cache.offsets[-1]), cache.report.engine)
"""
HUGGING_FACE = """
import json, sys
from transformers import AutoTokenizer
data, tokenizer, template = sys.argv[1:]
tokenizer, template = AutoTokenizer.from_pretrained(tokenizer), open(template).read()
tokens = 0
for line in open(data):
    found = tokenizer.apply_chat_template(
        json.loads(line)["messages"], chat_template=template, return_assistant_tokens_mask=True, return_dict=True
    )
    tokens += len(found["input_ids"])
print(tokens)
"""
MARKED = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
)


def main() -> int:
    """Measure and print."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks" / "sft", help="for files")
    parser.add_argument("--megabytes", type=float, default=16, help="of conversations (%(default)s)")
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout of this project")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (%(default)s)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    few, tenth, all_rows = (args.work / f"{name}.jsonl" for name in ("few", "tenth", "all"))
    write_conversations(few, 0.02)
    sizes = write_conversations(tenth, args.megabytes / 10), write_conversations(all_rows, args.megabytes)
    tokenizer = args.work / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file():
        make_tokenizer(tokenizer, args.work)
    trees = {"ours": ROOT} | ({"against": args.against.resolve()} if args.against else {})
    best = {name: (float("inf"), float("inf")) for name in trees}
    for _, (name, tree) in itertools.product(range(args.repeat), trees.items()):
        whole, start = (build(tree, data, tokenizer, args.work / "cache") for data in (all_rows, few))
        best[name] = min(best[name][0], whole), min(best[name][1], start)
    marked = args.work / "marked.jinja"
    marked.write_text(MARKED)
    theirs, start = (cpu(ROOT, HUGGING_FACE, data, tokenizer, marked)[0] for data in (tenth, few))
    report(sizes, best, theirs - start)
    return 0


def report(sizes: tuple[int, int], best: dict[str, tuple[float, float]], theirs: float) -> None:
    """Print MB a CPU-second, and the ratios."""
    speed = {name: sizes[1] / (whole - start) / 1e6 for name, (whole, start) in best.items()}
    for name, (whole, start) in best.items():
        print(f"{name}: {whole:.2f} CPU-seconds for {sizes[1] / 1e6:.1f} MB, {start:.2f} of them for the start: "
              f"{speed[name]:.2f} MB per CPU-second")  # fmt: skip
    reference = sizes[0] / theirs / 1e6
    print(f"Hugging Face: {reference:.2f} MB per CPU-second; ours is {speed['ours'] / reference:.1f} times as fast")
    if "against" in speed:
        print(f"ratio to the other checkout: {speed['ours'] / speed['against']:.3f}")


def write_conversations(path: Path, megabytes: float) -> int:
    """Conversations of this size of JSON Lines; returns the bytes."""
    state, size = random.Random(0), 0
    pieces = [text[at : at + 2000] for text in standard_library() for at in range(0, min(len(text), 40_000), 2000)]
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            row = json.dumps({"messages": _conversation(state, pieces)}) + "\n"
            file.write(row)
            size += len(row)
    return size


def _conversation(state: random.Random, pieces: list[str]) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": "Explain this code."}] if state.random() < 0.3 else []
    for _ in range(state.randint(1, 4)):
        for role, most in (("user", 300), ("assistant", 800)):
            text = state.choice(pieces)
            messages.append({"role": role, "content": "x" + text[: state.randint(20, most)]})
    return messages


def make_tokenizer(folder: Path, work: Path) -> None:
    """Of 8,192 tokens."""
    from megatron_patch.data.train_tokenizer import save, train

    corpus = work / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in standard_library()[:400]))
    save(train([corpus], vocab_size=8192), folder)


def build(tree: Path, data: Path, tokenizer: Path, folder: Path) -> float:
    """CPU seconds of one build from nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    seconds, said = cpu(tree, BUILD, data, tokenizer, folder)
    print(f"{tree.name}: {seconds:.2f} CPU-seconds: {said}", file=sys.stderr)
    return seconds


def cpu(tree: Path, code: str, *arguments: Path) -> tuple[float, str]:
    """CPU seconds of a process that runs this code in this checkout, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "RAYON_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, cwd=tree, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
