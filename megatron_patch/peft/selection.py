"""Which modules of a model an adapter_config.json gives an adapter. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from megatron_patch.common.messages import Message

LAYERS = "layers_to_transform"


def selects(config: dict[str, Any], module: str) -> bool:
    """Whether a module has an adapter, by target_modules, exclude_modules and layers_to_transform.

    Args:
        module: `model.layers.0.self_attn.q_proj`.
    Source: `check_target_module_exists` of peft 0.21, tuners/tuners_utils.py.
    """
    targets, excluded, layers = config["target_modules"], config.get("exclude_modules"), config.get(LAYERS)
    if excluded and _fits(excluded, module):
        return False
    if isinstance(targets, str):
        return targets.lower() == "all-linear" or _fits(targets, module)
    if module in targets or layers is None or layers == []:
        return _fits(targets, module)
    number = int(module.split(".")[2])
    return _fits(targets, module) and number in ([layers] if isinstance(layers, int) else layers)


def _fits(wanted: str | list[str], module: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return module in wanted or any(module.endswith(f".{name}") for name in wanted)


def selection_problems(config: dict[str, Any]) -> Iterator[Message]:
    """What is wrong with the three."""
    if not config.get("target_modules"):
        yield Message("peft-targets", found=repr(config.get("target_modules")))
    for name in ("target_modules", "exclude_modules"):
        told = config.get(name) or []
        if isinstance(told, str):
            try:
                re.compile(told)
            except (re.error, RecursionError, OverflowError):
                yield Message("peft-expression", name=name, found=f"{told:.80}")
        elif not (isinstance(told, list) and all(isinstance(one, str) for one in told)):
            yield Message("peft-names", name=name, found=f"{told!r:.80}")
    layers = config.get(LAYERS)
    numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        yield Message("peft-layers", found=f"{layers!r:.80}")
    if config.get("layers_pattern") not in (None, "", [], "layers", ["layers"]):
        yield Message("peft-value", name="layers_pattern", found=repr(config["layers_pattern"]), value="'layers'")
