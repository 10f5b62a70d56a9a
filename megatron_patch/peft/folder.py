"""Adapters as Hugging Face's PEFT keeps them: adapter_config.json and adapter_model.safetensors.

Source: `LoraConfig` and `get_peft_model_state_dict` of peft 0.21. torch is imported late: the launcher reads settings.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from megatron_patch.common.messages import Message, at
from megatron_patch.common.strict_json import JsonError, is_whole, parse_json, read_object
from megatron_patch.models import ModelConfig
from megatron_patch.peft.patterns import pattern_of, pattern_problems
from megatron_patch.peft.selection import LAYERS, selection_problems, selects
from megatron_patch.peft.settings import HF_MODULES, TARGETS, LoraSettings, PeftError, module_name, target_shapes

if TYPE_CHECKING:
    import torch

    from megatron_patch.peft.settings import Whole

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MOST_RANK = 1 << 16
FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
PREFIX = "base_model.model.model.layers."
_MODULES = {module.split(".")[-1]: target for target, module in HF_MODULES.items()}
"""`q_proj` -> `q`."""
PLAIN = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "fan_in_fan_out": False,
    "use_qalora": False,
    "trainable_token_indices": None,
    "layer_replication": None,
    "target_parameters": None,
    "lora_bias": False,
}
"""What an adapter says besides rank, alpha, dropout and targets, if it is LoRA as it is computed here."""
HARMLESS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "use_rslora", "inference_mode"),
        *("rank_pattern", "alpha_pattern", LAYERS, "layers_pattern"),
        *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),  # see BASE_STAYS
        *("megatron_config", "megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
        *("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),  # ms-swift's: of training alone
    )
)
"""Keys that are read, or change nothing of what an adapter computes; any other that says something is refused."""
BASE_STAYS = ("true", "false", "none", "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights. With the others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) PEFT subtracts the first B A from
the base's weights, when it makes the adapter and again when it loads it: beside the base as it is, it is another model.
Source: `LoraLayer.update_layer` of peft 0.21."""


def config_of(settings: LoraSettings, base: str) -> dict[str, Any]:
    """adapter_config.json.

    Args:
        base: `base_model_name_or_path`.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "rank_pattern": dict(settings.rank_pattern),
        "lora_alpha": settings.alpha,
        "alpha_pattern": dict(settings.alpha_pattern),
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "target_modules": [HF_MODULES[target].split(".")[-1] for target in settings.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def settings_of(folder: Path) -> LoraSettings:
    """Read adapter_config.json.

    Raises:
        PeftError: it is missing, damaged, or says something that is not computed here; all reasons at once.
    """
    try:
        config = read_object(folder / CONFIG)
        problems = list(_problems(config))
        if problems:
            raise PeftError.of([at(folder / CONFIG, what) for what in problems])
        modules = _modules_of(folder, config)
        return LoraSettings(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            dropout=float(config.get("lora_dropout") or 0.0),
            targets=tuple(target for target in TARGETS if target in modules),
            rslora=bool(config.get("use_rslora", False)),
            rank_pattern=pattern_of(config.get("rank_pattern")),
            alpha_pattern=pattern_of(config.get("alpha_pattern")),
        )
    except (OSError, KeyError, TypeError, AttributeError, JsonError) as error:
        raise PeftError.at(folder, "peft-not-adapter", error=error) from error


def other_base(folder: Path, *bases: str | Path) -> Message | None:
    """That adapter_config.json names another base than the one that is given; None where it is the same, or none.

    A name of the hub (`meta-llama/Llama-3.1-8B`) is that of a copy whose path has the model's name in it.

    Args:
        bases: the folder that is given, and others under which it may be known.
    """
    told = read_object(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(told, str) or not told or {os.path.realpath(told)} & set(map(os.path.realpath, bases)):
        return None
    owner, _, name = told.partition("/")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", told) and not Path(told).exists():
        copies = {name.lower(), f"models--{owner}--{name}".lower()}
        if any(part.lower() in copies for base in bases for part in Path(base).parts):
            return None
    return Message("peft-other-base", config=folder / CONFIG, told=told, base=str(bases[0]))


def _problems(config: dict[str, Any]) -> list[Message]:
    kind = config["peft_type"]
    found = [Message("peft-type", found=str(kind))] if kind != "LORA" else []
    for name, value in PLAIN.items():
        if name in config and (config[name] or value) and config[name] != value:
            found.append(Message("peft-value", name=name, found=repr(config[name]), value=repr(value)))
    unknown = (name for name in config if name not in HARMLESS and name not in PLAIN)
    found += [Message("peft-unknown", name=name, found=f"{config[name]!r:.80}") for name in unknown if config[name]]
    if str(start := config.get("init_lora_weights")).lower() not in BASE_STAYS:
        found.append(Message("peft-base-changed", found=repr(start)))
    if not is_whole(config.get("r"), 1, MOST_RANK):
        found.append(Message("peft-rank", found=repr(config.get("r"))))
    if not _is_real(alpha := config.get("lora_alpha")) or alpha <= 0:
        found.append(Message("peft-alpha", found=repr(alpha)))
    if not _is_real(dropout := config.get("lora_dropout") or 0) or not 0 <= dropout < 1:
        found.append(Message("peft-dropout", found=repr(dropout)))
    found += selection_problems(config)
    for name in ("rank_pattern", "alpha_pattern"):
        found += pattern_problems(name, config.get(name) or {}, whole=name == "rank_pattern")
    return found


def _is_real(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _modules_of(folder: Path, config: dict[str, Any]) -> set[str]:
    """Targets. `all-linear`, regular expressions, and what is left of exclude_modules are told by the weights."""
    modules = config["target_modules"]
    if isinstance(modules, str) or config.get("exclude_modules"):
        names = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in _shapes(folder)}
    else:
        names = {name.rsplit(".", 1)[-1] for name in modules}
    if unknown := sorted(names - _MODULES.keys()):
        raise PeftError.at(folder / CONFIG, "peft-modules", modules=unknown, known=list(_MODULES))
    return {_MODULES[name] for name in names}


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of the tensors, by name, from the head of the file: its length in eight bytes, then JSON."""
    path = folder / WEIGHTS
    if not path.exists() and (folder / PICKLED).exists():
        raise PeftError.at(folder / PICKLED, "peft-pickled", wanted=WEIGHTS)
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = parse_json(file.read(length))
        tensors = {name: about for name, about in header.items() if not name.startswith("__")}
        end = 8 + length + max(about["data_offsets"][1] for about in tensors.values())
        odd = {about["dtype"] for about in tensors.values()} - FLOATS
        shapes = {name: tuple(about["shape"]) for name, about in tensors.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error, MemoryError) as error:
        raise PeftError.at(path, "cannot-be-read", error=error) from error
    if path.stat().st_size != end:
        raise PeftError.at(path, "peft-length", size=path.stat().st_size, end=end)
    if odd:
        raise PeftError.at(path, "peft-types", types=sorted(odd), wanted=sorted(FLOATS))
    return shapes


def _open(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise PeftError.at(folder / WEIGHTS, "cannot-be-read", error=error) from error


def key(layer: int, target: str, part: str) -> str:
    """The name of a tensor in adapter_model.safetensors; `part` is A or B."""
    return f"{PREFIX}{layer}.{HF_MODULES[target]}.lora_{part}.weight"


def read_folder(folder: Path, model: ModelConfig, *, every_layer: bool = True) -> Whole:
    """A and B of every layer in fp32.

    Args:
        every_layer: see check_shapes.
    Raises:
        PeftError: not an adapter of this model: tensors that are missing, left over, of other shapes, NaN or inf.
    """
    check_shapes(folder, model, every_layer=every_layer)
    tensors = _open(folder)
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise PeftError.at(folder / WEIGHTS, "peft-not-finite", tensor=wrong[0], count=len(wrong))
    found: Whole = {layer: {} for layer in range(model.num_layers)}
    for layer, target in _adapted(folder, model):
        found[layer][target] = (tensors[key(layer, target, "A")].float(), tensors[key(layer, target, "B")].float())
    return found


def _adapted(folder: Path, model: ModelConfig) -> list[tuple[int, str]]:
    """Layers and targets that have an adapter, by adapter_config.json."""
    config, targets = read_object(folder / CONFIG), settings_of(folder).targets
    each = itertools.product(range(model.num_layers), targets)
    return [(layer, target) for layer, target in each if selects(config, module_name(layer, target))]


def check_shapes(folder: Path, model: ModelConfig, *, every_layer: bool = True) -> None:
    """That an adapter is one of this model, by the head of its file.

    Args:
        every_layer: a matrix that has an adapter has it in every layer, as it is trained here.
    Raises:
        PeftError: tensors that are missing, left over, or of other shapes.
    """
    settings, found, shapes = settings_of(folder), _shapes(folder), target_shapes(model)
    adapted = _adapted(folder, model)
    problems: list[Message] = []
    for layer, target in adapted:
        problems += _other_shapes(found, layer, target, settings.rank_of(layer, target), shapes[target])
    problems += [Message("peft-foreign", tensor=name, layers=model.num_layers) for name in found]
    counts = {target: sum(target == other for _, other in adapted) for target in settings.targets}
    for target in (target for target in counts if every_layer and counts[target] < model.num_layers):
        told = {"count": counts[target], "layers": model.num_layers}
        problems.append(Message("peft-some-layers", module=HF_MODULES[target], **told))
    if problems:
        shown = [*problems[:4], Message("peft-in-all", count=len(problems))]
        raise PeftError.of([at(folder, what) for what in shown])


def _other_shapes(
    found: dict[str, tuple[int, ...]], layer: int, target: str, rank: int, sizes: tuple[int, int]
) -> Iterator[Message]:
    """Take the two tensors of a module out of `found`."""
    for part, wanted in (("A", (rank, sizes[1])), ("B", (sizes[0], rank))):
        name = key(layer, target, part)
        shape = found.pop(name, None)
        if shape != wanted:
            told = Message("missing") if shape is None else str(list(shape))
            yield Message("peft-shape", tensor=name, found=told, wanted=str(list(wanted)))


def write_folder(folder: Path, settings: LoraSettings, whole: Whole, base: str) -> None:
    """Write both files into a folder that is there."""
    from safetensors.torch import save_file

    tensors = {}
    for layer, targets in whole.items():
        for target, pair in targets.items():
            for part, tensor in zip("AB", pair, strict=True):
                tensors[key(layer, target, part)] = tensor.contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config_of(settings, base), indent=2) + "\n", encoding="utf-8")
