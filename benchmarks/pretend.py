"""GPUs and weights that are not here, so that train_gpu.py --plan passes all checks of the driver without them."""

from __future__ import annotations

import json
import math
from pathlib import Path

from megatron_patch.checkpoint.configuration import special_token_ids
from megatron_patch.checkpoint.formats.hf_folder import DTYPES, SAFETENSORS_DTYPES, copy_companions
from megatron_patch.checkpoint.formats.safetensors_io import header_bytes
from megatron_patch.common.machine import Gpu
from megatron_patch.launch import environment
from megatron_patch.launch.gpu_kinds import KINDS
from megatron_patch.models import ModelConfig, model_to_hf_config
from megatron_patch.models.weight_map import hf_shapes

NVML_BYTES = {"h100": 85_520_809_984, "h200": 150_754_820_096}
"""What NVML says of an H100 of 80 GB and of an H200."""
RAM_BYTES = 2 << 40


def pretend_gpus(words: str) -> tuple[Gpu, ...]:
    """Let the driver see other GPUs than this machine's, and more RAM, in this process.

    Args:
        words: `4xH200`.
    Raises:
        ValueError: not a number of a kind that the planner knows.
    """
    count, _, kind = words.lower().partition("x")
    if not count.isdecimal() or not 1 <= int(count) <= 8 or kind not in KINDS:
        raise ValueError(f"{words!r} is not a number of GPUs of one kind, such as 4xH200 (kinds: {', '.join(KINDS)})")
    memory = NVML_BYTES.get(kind, KINDS[kind].memory_bytes)
    gpus = tuple(Gpu(name=f"NVIDIA {kind.upper()}", memory_bytes=memory, uuid=f"GPU-{n}") for n in range(int(count)))
    vars(environment).update(installed_gpus=lambda: gpus, total_memory=lambda: RAM_BYTES)
    return gpus


def hollow_model(folder: Path, model: ModelConfig, vocab_size: int, tokenizer: Path) -> None:
    """A Hugging Face folder in bf16 whose weights are a hole in a file: zeros, which take no room on the disk."""
    folder.mkdir(parents=True)
    shapes = hf_shapes(model, vocab_size)
    header = header_bytes({name: (SAFETENSORS_DTYPES["bf16"], shape) for name, shape in shapes.items()})
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * sum(math.prod(shape) for shape in shapes.values()))
    config = model_to_hf_config(model, dtype=DTYPES["bf16"], vocab_size=vocab_size)
    (folder / "config.json").write_text(json.dumps(config))
    copy_companions(tokenizer, folder, config | special_token_ids(tokenizer), "bf16")
