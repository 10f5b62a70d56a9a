"""Named flags into positions and MP_ variables, one function for each group of flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_patch.common.machine import installed_gpus, visible_gpus
from megatron_patch.launch.cluster.place import SlurmError, has_option
from megatron_patch.launch.inputs import CorpusError, read_blend
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.weights import WeightsError, read_weights
from megatron_patch.nemo.flags import SECRETS
from megatron_patch.nemo.hub import HubError, find_model
from megatron_patch.nemo.model_names import size_of, size_of_config, size_of_hub_name
from megatron_patch.nemo.request import FINETUNE, Request


def translate(asked: Request) -> None:
    """Fill the values, the variables, what there is to say, and what is wrong."""
    for flag, variable in SECRETS.items():
        if flag in asked.given:
            asked.environ[variable] = asked.given[flag]
    for group in (_place, _model, _parallel, _memory, _data, _schedule, _logging):
        group(asked)


def _place(asked: Request) -> None:
    slurm = asked.get("executor") == "slurm"
    asked.values["ENV"] = "slurm" if slurm else "dsw"
    asked.values["OUTPUT_BASEPATH"] = f"experiments/{asked.get('experiment')}"
    if slurm:
        asked.variable("MP_SLURM_ACCOUNT", asked.get("account"))
        asked.variable("MP_SLURM_PARTITION", asked.get("partition"))
        asked.variable("MP_SLURM_NODES", asked.get("num_nodes"))
        if asked.environ.get("MP_DEVICE") != "cpu":
            asked.variable("MP_SLURM_GPUS", asked.get("num_gpus"))
        if asked.get("time"):
            asked.variable("MP_SLURM_TIME", asked.get("time"))
        _container(asked)
        return
    idle = [name for name in ("account", "partition", "container_image", "time") if name in asked.given]
    asked.notes += [f"--{name} does nothing under --executor local" for name in idle]
    if asked.get("num_nodes") > 1:
        what = f"--executor local is one machine, not {asked.get('num_nodes')}"
        asked.wrong("num_nodes", what, "1, or --executor slurm (or run_mcore_llama3_1.sh with ENV dlc)")
    _processes(asked)


def _processes(asked: Request) -> None:
    if "num_gpus" in asked.given:
        asked.variable("MP_NPROC", asked.given["num_gpus"])
    elif asked.environ.get("MP_DEVICE") != "cpu" and "MP_NPROC" not in asked.environ:
        gpus = len(visible_gpus(installed_gpus(), asked.environ.get("CUDA_VISIBLE_DEVICES")))
        if gpus:
            asked.notes.append(f"--num_gpus is not given: all {gpus} GPUs of this machine")


def _container(asked: Request) -> None:
    """The documented default where pyxis is installed; without pyxis, no container unless one was asked for."""
    if "container_image" in asked.given or asked.dry_run:
        asked.variable("MP_SLURM_IMAGE", asked.get("container_image"))
        return
    try:
        pyxis = has_option("srun", "--container-image")
    except SlurmError:
        pyxis = False  # the driver says what is wrong with Slurm
    asked.variable("MP_SLURM_IMAGE", asked.get("container_image") if pyxis else "none")
    if not pyxis:
        asked.notes.append("no container: srun has no --container-image (pyxis is not installed)")


def _model(asked: Request) -> None:
    checkpoint, name = asked.get("nemo_model"), asked.get("hf_model_id")
    if name is None:
        asked.wrong("hf_model_id", "it is needed: the tokenizer comes from there", "a folder, or a name on the hub")
    else:
        try:
            found = find_model(name, checkpoint, asked.environ, download=not asked.dry_run)
            asked.variable("MP_TOKENIZER_PATH", found.folder)
            asked.notes += [found.how] if found.how else []
        except HubError as error:
            valid = "a folder with a tokenizer, or a name that the hub knows"
            asked.problems.append(Problem(names=("--hf_model_id",), what=str(error), valid=valid))
    if checkpoint is None and asked.stage == FINETUNE:
        checkpoint = _start_of_finetuning(asked)
    asked.values["PRETRAIN_CHECKPOINT_PATH"] = checkpoint or "none"
    asked.values["MODEL_SIZE"] = _size(asked, checkpoint)


def _start_of_finetuning(asked: Request) -> str | None:
    """Without --nemo_model: the weights beside the tokenizer, else the newest pretraining."""
    folder = Path(asked.environ.get("MP_TOKENIZER_PATH", ""))
    if any(folder.glob("*.safetensors")):
        asked.notes.append(f"--nemo_model is not given: the weights in {folder} are the start")
        return str(folder)
    for name in ("pretraining", "llama31_pretraining"):
        if any(Path("experiments", name, "checkpoints").glob("iter_*")):
            asked.notes.append(f"--nemo_model is not given: experiments/{name} is the start")
            return f"experiments/{name}"
    asked.wrong("nemo_model", "finetuning needs weights to start from", "a checkpoint, or a folder of safetensors")
    return None


def _size(asked: Request, checkpoint: str | None) -> str:
    typed = asked.get("model_size")
    if typed is not None:
        try:
            return size_of(typed)
        except ValueError as error:
            asked.wrong("model_size", str(error), "a name that --list shows")
            return "auto"
    try:
        if checkpoint is not None and read_weights(checkpoint).config is not None:
            return "auto"
    except (WeightsError, OSError):  # the driver says what is wrong there
        return "auto"
    name = asked.get("hf_model_id") or ""
    size = size_of_hub_name(name) or size_of_config(_config(asked.environ.get("MP_TOKENIZER_PATH", "")) or {})
    if size is None:
        asked.wrong("model_size", f"neither {name} nor a config.json tells it", "a name that --list shows")
        return "auto"
    asked.notes.append(f"--model_size is not given: {name} is {size}")
    return size


def _parallel(asked: Request) -> None:
    names = {"TP": "tensor", "PP": "pipeline"}
    for position, kind in names.items():
        asked.values[position] = str(asked.get(f"{kind}_model_parallel_size"))
    asked.values["CP"] = str(asked.get("context_parallel_size"))
    asked.values["SP"] = _boolean(asked.get("sequence_parallel"))
    asked.values |= {"DO": "true", "FL": "true"}
    if "virtual_pipeline_model_parallel_size" in asked.given:
        asked.variable("MP_VP", asked.given["virtual_pipeline_model_parallel_size"])
    asked.values["PR"] = "fp8" if asked.get("fp8") else asked.get("precision")
    if asked.get("fp8_recipe"):
        recipes = {"delayed_scaling": "delayed", "current_scaling": "tensorwise", "subchannel_scaling": "blockwise"}
        asked.variable("MP_FP8_RECIPE", recipes[asked.get("fp8_recipe")])


def _memory(asked: Request) -> None:
    granularity, offloads = asked.get("recompute_granularity"), asked.get("cpu_offloading")
    asked.values["AC"] = {"full": "full", "selective": "sel", None: "false"}[granularity]
    if granularity == "full":
        for flag, name in (("recompute_method", "MP_AC_METHOD"), ("recompute_num_layers", "MP_AC_LAYERS")):
            if flag in asked.given:
                asked.variable(name, asked.given[flag])
    else:
        idle = [flag for flag in ("recompute_method", "recompute_num_layers") if flag in asked.given]
        asked.notes += [f"--{flag} does nothing without --recompute_granularity full" for flag in idle]
    if asked.get("cpu_offloading_weights"):
        what = "Transformer Engine does not move weights any more: its switch has no effect"
        asked.wrong(
            "cpu_offloading_weights", what, "--optim_cpu_offloading, a larger TP or PP, or --recompute_granularity"
        )
    if offloads and granularity:
        asked.wrong("cpu_offloading", "not together with --recompute_granularity", "one of them")
    if offloads:
        _offload_activations(asked)
    elif any(f"cpu_offloading_{what}" in asked.given for what in ("layers", "activations")):
        asked.notes.append("--cpu_offloading_layers and _activations do nothing without --cpu_offloading")
    asked.values["OPTIMIZER_OFFLOAD"] = "static" if asked.get("optim_cpu_offloading") else "false"
    if asked.get("optim_cpu_offloading"):
        asked.variable("MP_OPTIMIZER_OFFLOAD_FRACTION", asked.get("optim_cpu_offloading_frac"))
    elif "optim_cpu_offloading_frac" in asked.given:
        asked.notes.append("--optim_cpu_offloading_frac does nothing without --optim_cpu_offloading")


def _offload_activations(asked: Request) -> None:
    asked.values["AC"] = "offload"
    if not asked.get("cpu_offloading_activations"):
        what = "nothing to move: of activations and weights, neither is chosen"
        asked.wrong("cpu_offloading", what, "with --cpu_offloading_activations")
    if asked.get("cpu_offloading_layers") is None:
        asked.wrong("cpu_offloading_layers", "--cpu_offloading needs it", "1 to the number of layers - 1")
    else:
        asked.variable("MP_AC_LAYERS", asked.given["cpu_offloading_layers"])


def _data(asked: Request) -> None:
    asked.values["SFT"] = _boolean(asked.stage == FINETUNE)
    folder = asked.get("dataset_path")
    asked.values |= {"DATASET_PATH": folder or "none", "VALID_DATASET_PATH": "none"}
    if folder is None:
        asked.wrong("dataset_path", "it is needed", "the folder of the training data")
    elif asked.stage == FINETUNE and (Path(folder) / "training.jsonl").is_file():
        asked.variable("MP_DATASET_TYPE", "raw")
        asked.values["DATASET_PATH"] = str(Path(folder) / "training.jsonl")
        if (Path(folder) / "validation.jsonl").is_file():
            asked.values["VALID_DATASET_PATH"] = str(Path(folder) / "validation.jsonl")
    elif asked.stage == FINETUNE and not any(Path(folder).rglob("*.idx")):
        asked.wrong(
            "dataset_path", f"neither training.jsonl nor .bin and .idx in {folder}", "a folder with one of them"
        )
    if asked.get("split"):
        asked.variable("MP_SPLIT", asked.get("split"))


def _schedule(asked: Request) -> None:
    batch, length = asked.get("global_batch_size"), asked.get("seq_length")
    steps = asked.get("max_steps") or _one_epoch(asked, batch, length)
    warmup = asked.given.get("warmup_steps", min(2000, steps // 10))
    each = 1 if asked.stage == FINETUNE else batch * length
    lr = asked.get("lr")
    asked.values |= {
        "BATCH_SIZE": str(asked.get("micro_batch_size")),
        "GLOBAL_BATCH_SIZE": str(batch),
        "SEQ_LEN": str(length),
        "PAD_LEN": str(length),
        "LR": repr(lr),
        "MIN_LR": repr(asked.given.get("min_lr", float(f"{lr / 10:.12g}"))),
        "TRAIN_TOKENS_OR_ITERS": str(steps * each),
        "WARMUP_TOKENS_OR_ITERS": str(warmup * each),
        "SAVE_INTERVAL": str(asked.get("save_interval")),
    }


def _one_epoch(asked: Request, batch: int, length: int) -> int:
    """Steps of one pass over the data; 1 where they cannot be read, which is said elsewhere."""
    path, raw = asked.values["DATASET_PATH"], asked.environ.get("MP_DATASET_TYPE") == "raw"
    try:
        corpora = read_blend(path, raw=raw)
    except (CorpusError, OSError):
        return 1
    if asked.stage == FINETUNE:
        count = sum(_count_lines(one.path) for one in corpora) if raw else sum((one.tokens or 0) for one in corpora)
        size, unit = (1, "conversations") if raw else (2 * length, "tokens and labels")
        steps = count // (batch * size)
        words = f"{count} {unit} / {batch if raw else f'({batch} x 2 x {length})'}"
    else:
        count = sum(one.tokens or 0 for one in corpora)
        steps, words = count // (batch * length), f"{count} tokens / ({batch} x {length})"
    if steps == 0:
        asked.wrong(
            "max_steps", f"not given, and one epoch is less than a step: {words}", "a smaller --global_batch_size"
        )
    asked.notes.append(f"--max_steps is not given: one epoch = {words} = {steps} steps")
    return max(1, steps)


def _logging(asked: Request) -> None:
    names = ("wandb_project", "wandb_name")
    if not asked.get("wandb"):
        for key in ("WANDB_API_KEY", "WANDB_MODE"):
            asked.environ.pop(key, None)
        idle = [name for name in names if name in asked.given]
        asked.notes += [f"--{name} does nothing without --wandb" for name in idle]
        return
    for name in names:
        asked.variable(f"MP_{name.upper()}", asked.given.get(name, asked.get("experiment")))


def _boolean(value: object) -> str:
    return "true" if value else "false"


def _config(folder: str) -> dict[str, Any] | None:
    """config.json of a folder, if there is one that can be read."""
    try:
        content = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _count_lines(path: str) -> int:
    """Lines with something on them: one conversation each in JSON Lines."""
    with Path(path).open("rb") as file:
        return sum(1 for line in file if line.strip())
