"""Scoring's forward passes alone, on one GPU: kernels launched one by one, without transformers' look at positions, and
as one CUDA graph for each shape.

    python benchmarks/shape_graphs.py [--share 4] [--layers 32] [--json FILE]

8B's architecture with random weights; batches of 16 as wide and as many as cmmlu and ceval-valid give with Llama's
tokens (808), or every so many-th width. Needs torch and transformers alone. Prints seconds, and whether floats differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.evaluation.forward import Forward, ShapeGraphs, never_packed

WIDEST = 136
BATCHES = (
    *(1, 0, 0, 0, 0, 1, 0, 2, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 5, 7, 6, 8, 9, 9, 8, 9, 8, 9, 9, 9, 9, 9, 8, 9, 11),
    *(10, 13, 16, 18, 20, 24, 25, 26, 26, 32, 31, 35, 33, 35, 38, 40, 37, 37, 32, 29, 23, 19, 12, 8, 6, 3, 2, 1),
)
"""Of each width in tokens, from the widest down: 12,928 questions of synthetic.py without examples."""
ROWS, SCORED = 16, 64
"""Of a batch; positions of it whose logits are read."""


def main() -> None:
    """Each way over the same batches."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=int, default=4, help="take every so many-th width")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    forward, vocabulary = _model(options.layers)
    widths = [WIDEST - place for place, count in enumerate(BATCHES) if place % options.share == 0 for _ in range(count)]
    generator = torch.Generator(device="cuda").manual_seed(0)
    batches = [torch.randint(vocabulary, (ROWS, w), generator=generator, device="cuda") for w in widths]
    ways: dict[str, Callable[[], tuple[Any, Forward]]] = {
        "one by one": lambda: (nullcontext(), forward),
        "no look": lambda: (never_packed(), forward),
        "graphs": lambda: (never_packed(), ShapeGraphs(forward)),
    }
    for tokens in (batches[0], batches[-1]):
        forward(tokens)
    figures: dict[str, Any] = {"batches": len(batches), "device": torch.cuda.get_device_name()}
    first: list[torch.Tensor] = []
    for name, make in ways.items():
        context, run = make()
        with context:
            seconds, launched, values = _timed(run, batches)
        first = first or values
        same = all(map(torch.equal, first, values))
        figures[name] = {"seconds": seconds, "launched": launched, "same": same}
        each = 1e3 * seconds / len(batches)
        print(
            f"{name:>10}: {seconds:6.2f} s, {each:.1f} ms a batch, launched after {launched:.2f}; same floats: {same}"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _model(layers: int) -> tuple[Forward, int]:
    """Tokens -> logits of 8B's architecture, and its vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).eval()

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = model(tokens, use_cache=False).logits
        return logits

    return forward, config.vocab_size


def _timed(run: Forward, batches: list[torch.Tensor]) -> tuple[float, float, list[torch.Tensor]]:
    """Seconds until the GPU is done, until the processor is, and of each batch what scoring reads."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    values = [run(tokens).view(-1, 128256)[-SCORED:].log_softmax(-1)[:, :64].clone() for tokens in batches]
    launched = time.perf_counter() - begin
    torch.cuda.synchronize()
    return time.perf_counter() - begin, launched, values


if __name__ == "__main__":
    main()
