"""A tiny model, an adapter made by Hugging Face's PEFT, and runs of the trainer over them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from ..trainer.harness import Run, environment, train

RANK, ALPHA = 4, 12
FLAGS = f"--lora-rank {RANK} --lora-alpha {ALPHA}"
STEPS, BATCH, LENGTH = 20, 8, 64
LLAMA = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    rope_parameters={
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
)
"""tests/trainer/harness.py MODEL."""


@dataclass(kw_only=True)
class World:
    """Where everything lies."""

    folder: Path
    data: Path

    @property
    def hf(self) -> Path:
        return self.folder / "hf"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    def start(self, flags: str = FLAGS) -> str:
        """Flags of a run over this base, from this adapter."""
        return f"--hf-checkpoint {self.hf} --lora-adapter {self.adapter} {flags}"

    def train(self, name: str, extra: str = "", *, processes: int = 1) -> Run:
        """20 steps that end in a checkpoint."""
        output = self.folder / name
        saving = f"--save {output}/checkpoints --save-interval 20"
        return train(output, self.data, f"{self.start()} --lr 2e-3 --min-lr 2e-4 {saving} {extra}", processes=processes)


def make_model(folder: Path, config: LlamaConfig = LLAMA, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)  # a frozen random head of usual size lets adapters learn next to nothing
    model.save_pretrained(folder)


def make_adapter(folder: Path, base: Path, **options: object) -> None:
    """Neither A nor B zero: what an untrained B of zeros would hide is seen at the first step."""
    torch.manual_seed(1)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": "all-linear", "init_lora_weights": False, **options}
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.2)
    made.save_pretrained(folder)


def peft_losses(world: World, cache: Path) -> list[dict]:
    """The same training by PEFT; its adapter is left in `theirs`."""
    documents = [document.tolist() for document in IndexedDataset(str(world.data))]
    settings = {
        "model": str(world.hf), "adapter": str(world.adapter), "cache": str(cache), "documents": documents,
        "length": LENGTH, "steps": STEPS, "batch": BATCH, "peak": 2e-3, "low": 2e-4, "warmup": 2,
    }  # fmt: skip
    (world.folder / "settings.json").write_text(json.dumps(settings))
    out = world.folder / "theirs"
    out.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("peft_loop.py")), str(world.folder / "settings.json")]
    subprocess.run([*command, str(out)], env=environment(), check=True)
    return json.loads((out / "losses.json").read_text())
