"""LoRA as anybody would train it with transformers and Hugging Face's PEFT: `peft_loop.py SETTINGS.json OUT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trainer"))
from hf_loop import learning_rate, samples


def run(s: dict, out: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(s["model"], dtype=torch.float32, attn_implementation="sdpa")
    model = PeftModel.from_pretrained(base, s["adapter"], is_trainable=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    text = samples(Path(s["cache"]), s["documents"], s["length"], s["steps"] * s["batch"])
    found = []
    for step in range(s["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, s["peak"], s["low"], s["warmup"], s["steps"])
        batch = text[step * s["batch"] : (step + 1) * s["batch"]]
        loss = torch.nn.functional.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        found.append({"loss": loss.item(), "grad_norm": norm.item()})
    model.save_pretrained(out)
    (out / "losses.json").write_text(json.dumps(found))


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
