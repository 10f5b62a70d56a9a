"""A tiny model, an adapter made by Hugging Face's PEFT, and runs of the trainer over them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from ..trainer import harness
from ..trainer.harness import Run, environment, train

RANK, ALPHA = 4, 12
FLAGS = f"--lora-rank {RANK} --lora-alpha {ALPHA}"
STEPS, BATCH, LENGTH = 20, 8, 64
SIZES = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
"""tests/trainer/harness.py MODEL."""
LAYER, HEAD = 64 * (2 * 64 + 2 * 32 + 3 * 128), 64 * 256
"""Weights of the matmuls of one layer, and of the LM head."""


def flops(trained: int, frozen: int) -> float:
    """Of a step: six operations of each trained weight and token, four of a frozen one, and attention."""
    return (6 * trained + 4 * frozen) * BATCH * LENGTH + 3 * 2 * 4 * 64 * BATCH * LENGTH**2


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e6}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(
        **SIZES, head_dim=16, rms_norm_eps=1e-5, tie_word_embeddings=False, rope_parameters=LLAMA3_ROPE
    ),
    "qwen3": Qwen3Config(
        **SIZES, head_dim=32, rms_norm_eps=1e-6, tie_word_embeddings=False, rope_parameters=PLAIN_ROPE
    ),
    "qwen2_5": Qwen2Config(**SIZES, rms_norm_eps=1e-6, tie_word_embeddings=True, rope_parameters=PLAIN_ROPE),
}
"""Norms of queries and keys, and a head_dim of its own; a bias of q, k and v, and tied embeddings."""
LLAMA = CONFIGS["llama"]
_QWEN = harness.MODEL.replace("--use-rope-scaling --rope-scaling-factor 8", "").replace("epsilon 1e-5", "epsilon 1e-6")
_QWEN = _QWEN.replace("500000", "1000000")
MEGATRON = {
    "llama": harness.MODEL,
    "qwen3": f"{_QWEN} --qk-layernorm --kv-channels 32",
    "qwen2_5": _QWEN.replace("--untie-embeddings-and-output-weights", "--add-qkv-bias"),
}
"""The same in flags of the trainer."""


@dataclass(kw_only=True)
class World:
    """Where everything lies."""

    folder: Path
    data: Path
    family: str = "llama"
    flags: str = FLAGS

    @property
    def hf(self) -> Path:
        return self.folder / "hf"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    def start(self) -> str:
        """Flags of a run over this base, from this adapter."""
        return f"--hf-checkpoint {self.hf} --lora-adapter {self.adapter} {self.flags}"

    def train(self, name: str, extra: str = "", *, processes: int = 1) -> Run:
        """20 steps that end in a checkpoint."""
        output = self.folder / name
        saving = f"--save {output}/checkpoints --save-interval 20"
        flags = f"{self.start()} --lr 2e-3 --min-lr 2e-4 {saving} {extra}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness, "MODEL", MEGATRON[self.family])
            return train(output, self.data, flags, processes=processes)


@dataclass(kw_only=True)
class Compared:
    """One family: its world, 20 steps of ours in one process, and PEFT's."""

    world: World
    ours: Run
    theirs: list[dict]


def make_world(folder: Path, data: Path, family: str) -> World:
    """A base and an adapter of a family."""
    make_model(folder / "hf", CONFIGS[family])
    make_adapter(folder / "adapter", folder / "hf")
    return World(folder=folder, data=data, family=family)


def make_model(folder: Path, config: PretrainedConfig = LLAMA, seed: int = 0) -> None:
    """Random weights; no norm of queries is all ones, and no bias all zeros."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)  # a frozen random head of usual size lets adapters learn next to nothing
        for name, parameter in model.named_parameters():
            if "q_norm" in name or "k_norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder)


def make_adapter(folder: Path, base: Path, **options: object) -> None:
    """Neither A nor B zero: what an untrained B of zeros would hide is seen at the first step."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
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
    out.mkdir(exist_ok=True)  # pytest makes it once more where it runs other parameters in between
    command = [sys.executable, str(Path(__file__).with_name("peft_loop.py")), str(world.folder / "settings.json")]
    subprocess.run([*command, str(out)], env=environment(), check=True)
    return json.loads((out / "losses.json").read_text())
