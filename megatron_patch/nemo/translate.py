"""Named flags into the 25 values and MP_ variables, one function for each group of flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.errors import UserError
from megatron_patch.common.machine import installed_gpus, visible_gpus
from megatron_patch.common.messages import Message, Name
from megatron_patch.common.strict_json import read_json
from megatron_patch.common.values import shown
from megatron_patch.launch.cluster.place import SlurmError, has_pyxis
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.inputs import CorpusError, read_blend
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.weights import read_weights
from megatron_patch.nemo.flags import FLAGS, SECRETS
from megatron_patch.nemo.hub import find_model
from megatron_patch.nemo.model_names import NameProblem, size_of, size_of_config, size_of_hub_name
from megatron_patch.nemo.wording import NAMES
from megatron_patch.runs.folder import CHECKPOINTS

PRETRAIN, FINETUNE = "pretrain", "finetune"


@dataclass(kw_only=True)
class Translation:
    """What was asked for, on its way to 25 values."""

    given: dict[str, Any]
    environ: dict[str, str]
    stage: str
    values: dict[str, str] = field(default_factory=dict)
    """By position name."""
    notes: list[Message] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def get(self, name: str) -> Any:
        """A flag's value, or its documented default."""
        default = next(flag.default for flag in FLAGS if flag.name == name)
        if self.stage == FINETUNE:
            default = {"experiment": "finetuning", "lr": 5e-6}.get(name, default)
        return self.given.get(name, default)

    @property
    def dry_run(self) -> bool:
        """Nothing will be started, so nothing is fetched either."""
        return bool(self.given.get("dry_run")) or self.environ.get("DRY_RUN", "") not in ("", "0", "false")

    def command_line(self) -> list[str]:
        """The 25 values in their order."""
        return [self.values[position.name] for position in POSITIONS]

    def wrong(self, code: str, name: str, **values: object) -> None:
        """Something that cannot be translated."""
        self.problems.append(Problem(code, f"--{name}", **values))

    def say(self, code: str, **values: object) -> None:
        """Something to know."""
        self.notes.append(Message(code, **values))

    def idle(self, code: str, *names: str) -> None:
        """Flags that were given and do nothing beside the others."""
        self.notes += [Message(code, name=Name(f"--{name}")) for name in names if name in self.given]

    def variable(self, name: str, value: object) -> None:
        """Set an MP_ variable; one of the user's that says something else is a contradiction."""
        text = shown(value)
        before = self.environ.get(name, "")
        if before not in ("", text):
            flag = NAMES.get(name, name)
            self.problems.append(Problem("flag-and-variable", flag, name=name, now=text, before=before))
        self.environ[name] = text


def translate(asked: Translation) -> None:
    """Fill the values, the variables, what there is to say, and what is wrong."""
    for flag, variable in SECRETS.items():
        if flag in asked.given:
            asked.environ[variable] = asked.given[flag]
    for group in (_place, _model, _adapters, _parallel, _memory, _data, _schedule, _logging):
        group(asked)


def _adapters(asked: Translation) -> None:
    """NeMo's LoRA has rank and alpha 32."""
    if "peft" not in asked.given:
        return
    if asked.stage == PRETRAIN:
        asked.wrong("nemo-peft-pretrain", "peft")
        return
    for name in ("MP_LORA_RANK", "MP_LORA_ALPHA"):
        asked.variable(name, asked.environ.get(name) or 32)


def _place(asked: Translation) -> None:
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
    asked.idle("nemo-idle-local", "account", "partition", "container_image", "time")
    if asked.get("num_nodes") > 1:
        asked.wrong("nemo-local-nodes", "num_nodes", nodes=asked.get("num_nodes"))
    _processes(asked)


def _processes(asked: Translation) -> None:
    if "num_gpus" in asked.given:
        asked.variable("MP_NPROC", asked.given["num_gpus"])
    elif asked.environ.get("MP_DEVICE") != "cpu" and "MP_NPROC" not in asked.environ:
        gpus = len(visible_gpus(installed_gpus(), asked.environ.get("CUDA_VISIBLE_DEVICES")))
        if gpus:
            asked.say("nemo-all-gpus", gpus=gpus)


def _container(asked: Translation) -> None:
    """The documented default where pyxis is installed; without pyxis, no container unless one was asked for."""
    if "container_image" in asked.given or asked.dry_run:
        asked.variable("MP_SLURM_IMAGE", asked.get("container_image"))
        return
    try:
        pyxis = has_pyxis()
    except SlurmError:
        pyxis = False  # the driver says what is wrong with Slurm
    asked.variable("MP_SLURM_IMAGE", asked.get("container_image") if pyxis else "none")
    if not pyxis:
        asked.say("nemo-no-container")


def _model(asked: Translation) -> None:
    checkpoint, name = asked.get("nemo_model"), asked.get("hf_model_id")
    if name is None:
        asked.wrong("nemo-tokenizer-needed", "hf_model_id")
    else:
        try:
            found = find_model(name, checkpoint, asked.environ, download=not asked.dry_run)
            asked.variable("MP_TOKENIZER_PATH", found.folder)
            asked.notes += [found.how] if found.how else []
        except UserError as error:
            asked.problems += Problem.of(error, "--hf_model_id", expected=Message("expect-tokenizer-or-hub"))
    if checkpoint is None and asked.stage == FINETUNE:
        checkpoint = _start_of_finetuning(asked)
    asked.values["PRETRAIN_CHECKPOINT_PATH"] = checkpoint or "none"
    asked.values["MODEL_SIZE"] = _size(asked, checkpoint)


def _start_of_finetuning(asked: Translation) -> str | None:
    """Without --nemo_model: the weights beside the tokenizer, else the newest pretraining."""
    folder = Path(asked.environ.get("MP_TOKENIZER_PATH", ""))
    if any(folder.glob("*.safetensors")):
        asked.say("nemo-start-folder", folder=str(folder))
        return str(folder)
    for name in ("pretraining", "llama31_pretraining"):
        if any(Path("experiments", name, CHECKPOINTS).glob("iter_*")):
            asked.say("nemo-start-folder", folder=f"experiments/{name}")
            return f"experiments/{name}"
    asked.wrong("nemo-weights-needed", "nemo_model")
    return None


def _size(asked: Translation, checkpoint: str | None) -> str:
    typed = asked.get("model_size")
    if typed is not None:
        try:
            return size_of(typed)
        except NameProblem as error:
            asked.problems += Problem.of(error, "--model_size", expected=Message("expect-model"))
            return "auto"
    try:
        if checkpoint is not None and read_weights(checkpoint).config is not None:
            return "auto"
    except (CheckpointError, OSError):  # the driver says what is wrong there
        return "auto"
    name = asked.get("hf_model_id") or ""
    size = size_of_hub_name(name) or size_of_config(_config(asked.environ.get("MP_TOKENIZER_PATH", "")) or {})
    if size is None:
        if name:
            asked.wrong("nemo-size-not-told", "model_size", model=name)
        else:
            asked.wrong("nemo-size-needed", "model_size")
        return "auto"
    asked.say("nemo-size-told", name=name, size=size)
    return size


def _parallel(asked: Translation) -> None:
    names = {"TP": "tensor", "PP": "pipeline"}
    for position, kind in names.items():
        asked.values[position] = str(asked.get(f"{kind}_model_parallel_size"))
    asked.values["CP"] = str(asked.get("context_parallel_size"))
    asked.values["SP"] = _boolean(asked.get("sequence_parallel"))
    asked.values |= {"DO": "true", "FL": "true"}
    _chunks(asked)
    asked.values["PR"] = "fp8" if asked.get("fp8") else asked.get("precision")
    if asked.get("fp8_recipe"):
        recipes = {"delayed_scaling": "delayed", "current_scaling": "tensorwise", "subchannel_scaling": "blockwise"}
        asked.variable("MP_FP8_RECIPE", recipes[asked.get("fp8_recipe")])


def _chunks(asked: Translation) -> None:
    """Of a pipeline; without the flag their scripts have one, where the driver would take two that pay."""
    flag = "virtual_pipeline_model_parallel_size"
    said = asked.environ.get("MP_VP") or asked.environ.get("MP_VP_CHUNKS")
    if flag in asked.given or (asked.get("pipeline_model_parallel_size") > 1 and not said):
        asked.variable("MP_VP_CHUNKS", asked.get(flag))


def _memory(asked: Translation) -> None:
    granularity, offloads = asked.get("recompute_granularity"), asked.get("cpu_offloading")
    asked.values["AC"] = {"full": "full", "selective": "sel", None: "false"}[granularity]
    if granularity == "full":
        for flag, name in (("recompute_method", "MP_AC_METHOD"), ("recompute_num_layers", "MP_AC_LAYERS")):
            if flag in asked.given:
                asked.variable(name, asked.given[flag])
    else:
        asked.idle("nemo-idle-recompute", "recompute_method", "recompute_num_layers")
    if asked.get("cpu_offloading_weights"):
        asked.wrong("nemo-offload-weights", "cpu_offloading_weights")
    if offloads and granularity:
        asked.wrong("nemo-offload-and-recompute", "cpu_offloading")
    if offloads:
        _offload_activations(asked)
    else:
        asked.idle("nemo-idle-offload", "cpu_offloading_layers", "cpu_offloading_activations")
    asked.values["OPTIMIZER_OFFLOAD"] = "static" if asked.get("optim_cpu_offloading") else "false"
    if asked.get("optim_cpu_offloading"):
        asked.variable("MP_OPTIMIZER_OFFLOAD_FRACTION", asked.get("optim_cpu_offloading_frac"))
    else:
        asked.idle("nemo-idle-optimizer", "optim_cpu_offloading_frac")


def _offload_activations(asked: Translation) -> None:
    asked.values["AC"] = "offload"
    if not asked.get("cpu_offloading_activations"):
        asked.wrong("nemo-offload-nothing", "cpu_offloading")
    if asked.get("cpu_offloading_layers") is None:
        asked.wrong("nemo-offload-layers", "cpu_offloading_layers")
    else:
        asked.variable("MP_AC_LAYERS", asked.given["cpu_offloading_layers"])


def _data(asked: Translation) -> None:
    asked.values["SFT"] = _boolean(asked.stage == FINETUNE)
    folder = asked.get("dataset_path")
    asked.values |= {"DATASET_PATH": folder or "none", "VALID_DATASET_PATH": "none"}
    if folder is None:
        asked.wrong("nemo-data-needed", "dataset_path")
    elif asked.stage == FINETUNE and (Path(folder) / "training.jsonl").is_file():
        asked.variable("MP_DATASET_TYPE", "raw")
        asked.values["DATASET_PATH"] = str(Path(folder) / "training.jsonl")
        if (Path(folder) / "validation.jsonl").is_file():
            asked.values["VALID_DATASET_PATH"] = str(Path(folder) / "validation.jsonl")
    elif asked.stage == FINETUNE and not any(Path(folder).rglob("*.idx")):
        asked.wrong("nemo-data-missing", "dataset_path", folder=folder)
    if asked.get("split"):
        asked.variable("MP_SPLIT", asked.get("split"))


def _schedule(asked: Translation) -> None:
    batch, length = asked.get("global_batch_size"), asked.get("seq_length")
    each = 1 if asked.stage == FINETUNE else batch * length
    if "max_steps" not in asked.given and (deciding := _decide_rows(asked)):
        asked.say("nemo-epoch-counted", deciding=deciding)
        tenth = "0.1epochs" if _is_long(asked, batch) else 0
        train, warmup = "1epoch", str(asked.given.get("warmup_steps", tenth))
    else:
        steps = asked.get("max_steps") or _one_epoch(asked, batch, length)
        train, warmup = str(steps * each), str(asked.given.get("warmup_steps", min(2000, steps // 10)) * each)
    lr = asked.get("lr")
    asked.values |= {
        "BATCH_SIZE": str(asked.get("micro_batch_size")),
        "GLOBAL_BATCH_SIZE": str(batch),
        "SEQ_LEN": str(length),
        "PAD_LEN": str(length),
        "LR": repr(lr),
        "MIN_LR": repr(asked.given.get("min_lr", float(f"{lr / 10:.12g}"))),
        "TRAIN_TOKENS_OR_ITERS": train,
        "WARMUP_TOKENS_OR_ITERS": warmup,
        "SAVE_INTERVAL": str(asked.get("save_interval")),
    }


def _decide_rows(asked: Translation) -> list[str]:
    """What makes other rows of JSON Lines than one a line: these are counted, after tokenizing, by the driver."""
    environ = asked.environ
    if environ.get("MP_DATASET_TYPE") != "raw":
        return []
    found = {
        "MP_SFT_PACKING=true": environ.get("MP_SFT_PACKING", "").lower() in ("1", "true"),
        "MP_SFT_OVERLONG=drop": environ.get("MP_SFT_OVERLONG") == "drop",
        "MP_SFT_TURNS=one-by-one": environ.get("MP_SFT_TURNS") == "one-by-one",
        f"MP_SPLIT={environ.get('MP_SPLIT')}": bool(environ.get("MP_SPLIT")),
    }
    return [name for name, there in found.items() if there]


def _is_long(asked: Translation, batch: int) -> bool:
    """Whether a tenth of an epoch is an iteration, at one row a line; no where they cannot be read."""
    try:
        return _count_lines(asked.values["DATASET_PATH"]) >= 10 * batch
    except OSError:
        return False


def _one_epoch(asked: Translation, batch: int, length: int) -> int:
    """Steps of one pass over the data; 1 where they cannot be read, which is said elsewhere."""
    path, raw = asked.values["DATASET_PATH"], asked.environ.get("MP_DATASET_TYPE") == "raw"
    try:
        count = sum(_count_lines(one.path) if raw else one.tokens or 0 for one in read_blend(path, raw=raw))
    except (CorpusError, OSError):
        return 1
    size = {"epoch-rows": 1, "epoch-labels": 2 * length, "epoch-tokens": length}
    code = "epoch-tokens" if asked.stage != FINETUNE else "epoch-rows" if raw else "epoch-labels"
    steps = count // (batch * size[code])
    values = {"count": count, "batch": batch, "steps": steps} | ({} if raw else {"length": length})
    arithmetic = Message(code, **values)
    if steps == 0:
        asked.wrong("nemo-epoch-too-short", "max_steps", arithmetic=arithmetic)
    asked.say("nemo-one-epoch", arithmetic=arithmetic)
    return max(1, steps)


def _logging(asked: Translation) -> None:
    names = ("wandb_project", "wandb_name")
    if not asked.get("wandb"):
        for key in ("WANDB_API_KEY", "WANDB_MODE"):
            asked.environ.pop(key, None)
        asked.idle("nemo-idle-wandb", *names)
    elif not asked.environ.get("WANDB_API_KEY") and asked.environ.get("WANDB_MODE") != "offline":
        asked.wrong("nemo-wandb-no-key", "wandb")
    else:
        for name in names:
            asked.variable(f"MP_{name.upper()}", asked.given.get(name, asked.get("experiment")))


def _boolean(value: object) -> str:
    return "true" if value else "false"


def _config(folder: str) -> dict[str, Any] | None:
    """config.json of a folder, if there is one that can be read."""
    try:
        content = read_json(Path(folder) / "config.json")
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _count_lines(path: str) -> int:
    """Lines with something on them: one conversation each in JSON Lines.

    Raises:
        OSError: not a file that can be read.
    """
    with Path(path).open("rb") as file:
        return sum(1 for line in file if line.strip())
