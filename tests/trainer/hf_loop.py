"""Training as anybody would write it with transformers and torch: `hf_loop.py SETTINGS.json OUT.json`.

Knows nothing of Megatron but the order of its samples, which is read from the index files that a run left.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def samples(cache: Path, documents: list[list[int]], length: int, count: int) -> torch.Tensor:
    """The first `count` training samples, [count, length + 1]: documents one after another, cut, then shuffled."""
    order, cuts, shuffle = (
        np.load(next(cache.rglob(f"*train*{name}_index.npy"))) for name in ("document", "sample", "shuffle")
    )
    starts = np.concatenate([[0], np.cumsum([len(documents[d]) for d in order])])
    text = np.concatenate([documents[d] for d in order])
    begins = [int(starts[cuts[shuffle[i]][0]] + cuts[shuffle[i]][1]) for i in range(count)]
    return torch.tensor(np.stack([text[b : b + length + 1] for b in begins]), dtype=torch.long)


def learning_rate(step: int, peak: float, low: float, warmup: int, steps: int) -> float:
    """Linear from zero, then cosine. Megatron's first step is step 0: its rate is moved after the optimizer."""
    if step <= warmup:
        return peak * step / warmup
    return low + (peak - low) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def run(s: dict) -> list[dict]:
    model = AutoModelForCausalLM.from_pretrained(s["model"], dtype=torch.float32, attn_implementation="sdpa")
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    text = samples(Path(s["cache"]), s["documents"], s["length"], s["steps"] * s["batch"])
    found = []
    for step in range(s["steps"]):
        rate = learning_rate(step, s["peak"], s["low"], s["warmup"], s["steps"])
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = text[step * s["batch"] : (step + 1) * s["batch"]]
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append({"loss": loss.item(), "grad_norm": norm.item(), "lr": rate})
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
