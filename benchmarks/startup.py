"""How long a user waits: for an error, for a plan, for the first optimizer step.

    sh toolkits/python.sh benchmarks/startup.py [--repeats 9] [--no-training] [--json FILE]

Every time is the median of interleaved runs of the real script, next to `python -c pass` and `import torch` in the same
run. The way to the first step (`tiny`, one process, 8 x 128 tokens) is that of `startup.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.data.idxmap.writer import IdxmapWriter

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "llama3_1" / "run_mcore_llama3_1.sh"


def make_world(folder: Path) -> None:
    """A byte-level tokenizer and 20,000 tokens."""
    vocab = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(["<|end_of_text|>"])
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end_of_text|>"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    with IdxmapWriter(folder / "text", 257) as writer:
        for _ in range(100):
            writer.add_document(list(range(200)))


def values(**changes: str) -> list[str]:
    """25 values of a small run; only TP, the model and the output folder are ever changed."""
    right = {"model": "tiny", "tp": "1", "output": "out"} | changes
    return (
        f"dsw {right['model']} 1 8 1e-3 1e-4 128 128 fp32 {right['tp']} 1 1 false false true false false false 1000 "
        f"text none none 2048 0 {right['output']}"
    ).split()


def seconds(command: list[str], folder: Path, status: int, **environ: str) -> float:
    """Wall time of one command, which has to end with this status."""
    begin = time.perf_counter()
    run = subprocess.run(command, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True)
    took = time.perf_counter() - begin
    if run.returncode != status:
        sys.exit(f"{' '.join(command)} ended with {run.returncode}, not {status}:\n{run.stdout}{run.stderr}")
    return took


def measure_answers(folder: Path, repeats: int) -> dict[str, float]:
    """Medians of what ends without training, interleaved so that a busy moment hits all alike."""
    driver = ["sh", str(SCRIPT)]
    cases = {
        "python -c pass": ([sys.executable, "-c", "pass"], 0, {}),
        "import torch": ([sys.executable, "-c", "import torch"], 0, {}),
        "wrong value: refused": ([*driver, *values(tp="3")], 2, {}),
        "no values: the table": (driver, 2, {}),
        "dry run, tiny": ([*driver, *values()], 0, {"DRY_RUN": "1"}),
        "dry run, 70B": ([*driver, *values(model="70B")], 0, {"DRY_RUN": "1"}),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, (command, status, environ) in cases.items():
            times[name].append(seconds(command, folder, status, **environ))
    return {name: statistics.median(taken) for name, taken in times.items()}


def measure_first_step(folder: Path, repeats: int) -> dict[str, float]:
    """Medians of the parts between the command and the first optimizer step, as the runs themselves say them."""
    found: dict[str, list[float]] = {}
    for number in range(repeats):
        output = folder / f"run-{number}"
        seconds(["sh", str(SCRIPT), *values(output=str(output))], folder, 0)
        for part, took in json.loads((output / "startup.json").read_text())["parts"].items():
            found.setdefault(part, []).append(took)
    return {part: statistics.median(taken) for part, taken in found.items()}


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="runs of each short command")
    parser.add_argument("--no-training", action="store_true", help="leave out the way to the first step")
    parser.add_argument("--json", type=Path, default=None, help="write the figures there too")
    options = parser.parse_args()
    os.environ |= {"MP_TOKENIZER_PATH": "tokenizer", "MP_DEVICE": "cpu", "PYTHON": sys.executable}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_world(folder)
        answers = measure_answers(folder, options.repeats)
        stages = {} if options.no_training else measure_first_step(folder, min(options.repeats, 5))
    python, torch = answers["python -c pass"], answers["import torch"]
    print(f"{'':<36}{'seconds':>9}{'x python':>10}{'x import torch':>16}")
    for label, took in answers.items():
        print(f"{label:<36}{took:>9.3f}{took / python:>10.1f}{took / torch:>16.3f}")
    if stages:
        print(f"\ncommand to first step: {sum(stages.values()):.1f} s")
        for label, took in stages.items():
            print(f"  {label:<34}{took:>9.3f}{took / python:>10.1f}{took / torch:>16.3f}")
    if options.json:
        options.json.write_text(json.dumps({"answers": answers, "first_step": stages}, indent=2) + "\n")


if __name__ == "__main__":
    main()
