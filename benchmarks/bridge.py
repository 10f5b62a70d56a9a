"""Train Llama 3.1 8B with Megatron-Bridge's own recipe, beside `train_gpu.py`, for a comparison on the same GPUs.

    torchrun --nproc-per-node 2 benchmarks/bridge.py --how shipped --precision bf16 --out FILE.json

Written for megatron-bridge 0.6.2 over megatron-core 0.19.2, Transformer Engine 2.20.2, torch 2.11.0 and
transformers 5.17.0 (0.6.2 asks for 5.8 to 5.12), random weights, mock data, no checkpoint, two Hopper GPUs:

shipped: `llama31_8b_pretrain_2gpu_h100_bf16_config`, its parallelism (CP2), precision, sums of gradients in fp32,
    checks and environment, or for fp8 the same with the precision of `llama3_8b_pretrain_2gpu_h100_fp8cs_config`.
retuned: the performance recipes `llama3_8b_pretrain_8gpu_h100_{bf16,fp8cs}_config`, which are made for 80 GB, with
    what 141 GB allow: no context parallelism and no recomputation, so DP2.

Of both, only batch, steps, tokenizer, logging, evaluation, checkpoints and LEFT_OUT are changed. Packages that Bridge
imports for other models are replaced by empty ones where they are not installed: CUT. What apex is for comes from
Transformer Engine's GEMM, the dataset helpers from megatron-core's wheel, cuDNN from torch's, all as in our trainer;
its other patches do not touch Bridge.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.models import model_of_size, model_to_hf_config

CUT = {
    "datasets": "data of finetuning",
    "diffusers": "the diffusion models",
    "megatron.energon": "data of images and sound",
    "modelopt": "distillation and quantization",
    "nvidia_resiliency_ext": "restarts within a process",
}
"""Packages that Bridge imports whatever the model is, and what they are for."""
NAMES = ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3-8B")
"""What the recipes ask Hugging Face for: both get the configuration of 3.1, the shape is the same."""
COMMON = {
    "NCCL_GRAPH_REGISTER": "0",
    "NCCL_NVLS_ENABLE": "0",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",
    "TORCH_NCCL_HIGH_PRIORITY": "1",
}
MARGINS = {"NVTE_FWD_LAYERNORM_SM_MARGIN": "20", "NVTE_BWD_LAYERNORM_SM_MARGIN": "20"}
CUDNN_NORMS = {"NVTE_NORM_FWD_USE_CUDNN": "1", "NVTE_NORM_BWD_USE_CUDNN": "1"}
ENVIRONMENT = {
    ("shipped", "bf16"): COMMON,
    ("shipped", "fp8"): COMMON,
    ("retuned", "bf16"): COMMON | MARGINS | {"CUDA_DEVICE_MAX_CONNECTIONS": "1"},
    ("retuned", "fp8"): COMMON | MARGINS | CUDNN_NORMS | {"CUDA_DEVICE_MAX_CONNECTIONS": "32"},
}
"""The recipes' own `env_vars`, less LEFT_OUT: Bridge sets them after its imports, which is late for some."""
LEFT_OUT = ("NCCL_CTA_POLICY",)
"""For NVLink multicast and registered buffers, which stay off on machines whose GPUs others share."""
WARM_UP = 3
"""First steps that no figure counts, as in train_gpu.py."""


class Nothing:
    """Whatever is taken from a package that was cut: a base class, a decorator, or a function that returns None."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """What a call gives: the decorated function, None, or for options alone a decorator."""
        if not args and options:
            return lambda function: function
        return args[0] if args and callable(args[0]) else None


class Cutter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages of CUT where they are not installed, with nothing in them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """A package for a name of CUT or below it; of nvidia_resiliency_ext only what Bridge does not ask for first."""
        if name.startswith("nvidia_resiliency_ext.") and name != "nvidia_resiliency_ext.inprocess":
            return None
        if any(name == package or name.startswith(f"{package}.") for package in CUT):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Every public name is a class of its own."""

        def get(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (Nothing,), {})

        module.__getattr__ = get  # type: ignore[method-assign]


class Recorder:
    """Time, loss and memory of each step, through Bridge's callbacks."""

    def __init__(self) -> None:
        self.last = 0.0
        self.milliseconds: list[float] = []
        self.losses: list[float] = []

    def started(self, context: Any) -> None:
        """The loop begins."""
        self.last = now()

    def stepped(self, context: Any) -> None:
        """A step has ended; what Bridge does between two steps counts to the later one."""
        ended = now()
        self.milliseconds.append(round((ended - self.last) * 1e3, 1))
        self.last = ended
        self.losses += [float(loss) for name, loss in context.loss_dict.items() if name == "lm loss"]


def now() -> float:
    """Seconds, when the GPU has done everything."""
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """One run."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--how", choices=("shipped", "retuned"), required=True)
    parser.add_argument("--precision", choices=("bf16", "fp8"), default="bf16")
    parser.add_argument("--size", default="8B", help="a size of Llama 3.1; another than 8B only to try this script")
    parser.add_argument("--sequence", type=int, default=8192, help="tokens")
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--global-batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--gate", type=Path, help="wait after the imports until this file is there")
    args = parser.parse_args()
    environment = ENVIRONMENT[args.how, args.precision]
    os.environ |= environment | os.environ
    with tempfile.TemporaryDirectory(prefix="bridge-") as cache:
        import_bridge(args.size, Path(cache))
        config = configuration(args)
    assert {name: str(value) for name, value in config.env_vars.items()} == environment, config.env_vars
    while args.gate and not args.gate.exists():
        time.sleep(0.1)
    train(config, args)


def import_bridge(size: str, cache: Path) -> None:
    """Import Bridge without a network: a configuration of this size is what Hugging Face's cache holds."""
    os.environ |= {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    for name in NAMES:
        folder = cache / f"models--{name.replace('/', '--')}"
        for part, text in (("refs/main", "given"), ("snapshots/given/config.json", hf_config(size))):
            (folder / part).parent.mkdir(parents=True)
            (folder / part).write_text(text)
    sys.meta_path.append(Cutter())
    from megatron_patch.backend import wheel_fixes
    from megatron_patch.backend.gpu import libraries as te_libraries

    te_libraries.use_torchs_libraries()
    wheel_fixes.provide_fused_wgrad()
    wheel_fixes.use_compiled_helpers()
    import megatron.bridge.recipes.llama
    import megatron.bridge.training.gpt_step
    import megatron.bridge.training.pretrain  # noqa: F401


def hf_config(size: str) -> str:
    """`config.json` of a size."""
    shape = model_of_size(size)
    return json.dumps(model_to_hf_config(shape, dtype="bfloat16", vocab_size=shape.vocab_size or 1024))


def configuration(args: argparse.Namespace) -> Any:
    """Bridge's recipe with our batch and number of steps."""
    config = {"shipped": shipped, "retuned": retuned}[args.how](args.precision)
    config.train.train_iters = args.steps
    config.train.global_batch_size = args.global_batch
    config.train.micro_batch_size = args.micro_batch
    config.model.seq_length = config.dataset.seq_length = args.sequence
    config.scheduler.lr_warmup_iters = 1
    config.scheduler.lr_decay_iters = args.steps
    config.tokenizer.vocab_size = config.model.vocab_size
    config.validation.eval_iters = 0
    config.checkpoint.save = config.checkpoint.load = None
    config.logger.log_interval = 1
    config.logger.tensorboard_dir = None
    for name in LEFT_OUT:
        config.env_vars.pop(name, None)
    return config


def shipped(precision: str) -> Any:
    """The recipe of the library for this model and two GPUs."""
    from megatron.bridge.recipes.llama import llama3, llama31_8b_pretrain_config

    config = llama31_8b_pretrain_config()
    if precision == "fp8":
        config.mixed_precision = llama3.llama3_8b_low_precision_pretrain_config().mixed_precision
    return config


def retuned(precision: str) -> Any:
    """The recipe that Bridge's published figures come from, for GPUs that hold the model without its two savings."""
    from megatron.bridge.perf_recipes.llama.h100 import llama3

    if precision == "bf16":
        config = llama3.llama3_8b_pretrain_8gpu_h100_bf16_config()
    else:
        config = llama3.llama3_8b_pretrain_8gpu_h100_fp8cs_config()
    config.model.context_parallel_size = 1
    config.model.recompute_granularity = config.model.recompute_method = config.model.recompute_num_layers = None
    return config


def train(config: Any, args: argparse.Namespace) -> None:
    """Bridge's own loop; after each step rank 0 writes the figures so far."""
    from megatron.bridge.training.callbacks import CallbackManager
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    recorder, callbacks = Recorder(), CallbackManager()
    callbacks.register("on_train_start", recorder.started)
    callbacks.register("on_train_step_end", recorder.stepped)
    if os.environ.get("RANK", "0") == "0":
        write = args.out.write_text
        callbacks.register("on_train_step_end", lambda _: write(json.dumps(report(args, config, recorder), indent=1)))
    pretrain(config, forward_step, callbacks)


def report(args: argparse.Namespace, config: Any, recorder: Recorder) -> dict[str, Any]:
    """The figures, and what they were measured with."""
    import torch

    settled = recorder.milliseconds[min(WARM_UP, len(recorder.milliseconds) - 1) :]
    tokens = args.global_batch * args.sequence / int(os.environ.get("WORLD_SIZE", "1"))
    parts: Sequence[Any] = (config.model, config.ddp, config.optimizer)
    packages = ("megatron-bridge", "megatron-core", "transformer-engine", "torch", "transformers")
    return {
        "how": args.how,
        "precision": args.precision,
        "tokens_per_second_per_gpu": round(tokens / statistics.median(settled) * 1e3),
        "milliseconds": recorder.milliseconds,
        "losses": recorder.losses,
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "versions": {name: version(name) for name in packages},
        "environment": {name: os.environ.get(name) for name in config.env_vars},
        "settings": {type(part).__name__: {k: str(v) for k, v in vars(part).items() if v} for part in parts},
    }


if __name__ == "__main__":
    main()
