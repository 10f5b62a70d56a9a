"""Putting adapters into a model that Megatron has built, and freezing what is not trained.

The seam: when megatron.core.transformer.peft is there, `add_adapters` calls it instead, and `Adapters` goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from megatron_patch.models import ModelConfig
from megatron_patch.peft.lora import Adapters, fresh
from megatron_patch.peft.settings import (
    LINEARS,
    SUFFIX,
    Linear,
    LoraSettings,
    PeftError,
    frozen_layers,
    frozen_words,
    target_shapes,
)

if TYPE_CHECKING:
    from megatron_patch.peft.settings import Whole


def add_adapters(
    chunks: list[Any], settings: LoraSettings, model: ModelConfig, *, seed: int, start: Whole | None = None
) -> int:
    """Freeze the model and give its layers adapters, which alone are trained and saved from here on.

    Call it before DDP and the optimizer are built, when the base weights are there.

    Args:
        chunks: as Megatron builds them, one for each virtual pipeline stage; not wrapped.
        seed: of new adapters.
        start: adapters to go on from, of all layers; None draws new ones.
    Returns:
        trained elements on this rank.
    """
    shapes = target_shapes(model)
    for chunk in chunks:
        chunk.requires_grad_(False)
        _forget_fresh_values(chunk)
        for layer in layers_of(chunk):
            number = layer.layer_number - 1
            whole = start[number] if start is not None else dict(fresh(settings, shapes, number, seed))
            for linear in LINEARS:
                if set(linear.targets) & set(settings.targets):
                    _add(layer, linear, settings, model, shapes).fill(whole)
        let_gradients_in(chunk)
        _save_adapters_only(chunk)
    return sum(p.numel() for chunk in chunks for p in chunk.parameters() if p.requires_grad)


def layers_of(chunk: Any) -> Iterator[Any]:
    """The transformer layers of one model chunk."""
    yield from chunk.decoder.layers


def _add(
    layer: Any, linear: Linear, settings: LoraSettings, model: ModelConfig, shapes: dict[str, tuple[int, int]]
) -> Adapters:
    parent_name, name = linear.path.split(".")
    parent = getattr(layer, parent_name)
    module = getattr(parent, name)
    local_rows, local_columns = module.weight.shape
    tp = 1 if linear.row_parallel else sum(shapes[target][0] for target in linear.targets) // local_rows
    if linear.by_group and model.num_query_groups % tp:
        raise PeftError("peft-tp", module=linear.path, tp=tp, groups=model.num_query_groups)
    adapters = Adapters(
        linear,
        settings,
        layer=layer.layer_number - 1,
        layers=model.num_layers,
        rows={target: shapes[target][0] // tp for target in linear.targets},
        columns=local_columns,
        groups=model.num_query_groups // tp if linear.by_group else 1,
        config=layer.config,
        device=module.weight.device,
    )
    parent.add_module(name + SUFFIX, adapters)
    if hasattr(module, "return_layernorm_output"):  # Transformer Engine's norm and linear in one: what is multiplied
        module.return_layernorm_output = True
        module.register_forward_hook(_after_norm_and_linear(adapters))
    else:
        module.register_forward_pre_hook(_before_linear(adapters))
        module.register_forward_hook(_after_linear(adapters))
    return adapters


def _before_linear(adapters: Adapters) -> Any:
    """On a GPU the adapters read the input first: see `Adapters.fork`."""

    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
        if not adapters.forks:
            return None
        x, adapters.forked = adapters.fork(inputs[0])
        return x, *inputs[1:]

    return hook


def _after_linear(adapters: Adapters) -> Any:
    """Megatron's linear modules return (output, bias that was not added)."""

    def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, Any]) -> Any:
        h, adapters.forked = adapters.forked, None
        added = adapters(inputs[0], output[0]) if h is None else adapters.add(output[0], h)
        return added, output[1]

    return hook


def _after_norm_and_linear(adapters: Adapters) -> Any:
    """Transformer Engine gives the normed input beside the output, of this rank's tokens: nothing is normed twice."""

    def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> Any:
        if isinstance(output[0], tuple):
            (base, normed), bias = output
        else:
            base, bias, normed = output
        return adapters(normed, base), bias

    return hook


def let_gradients_in(chunk: Any) -> None:
    """Let the first activations want a gradient though nothing before them is trained.

    Megatron's recomputation gives gradients to what is inside it only if an input wants one, and its schedule calls
    backward on every stage.
    """

    def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()
        return output

    if getattr(chunk, "pre_process", False):
        chunk.embedding.register_forward_hook(hook)


def _forget_fresh_values(chunk: Any) -> None:
    """Transformer Engine keeps what an fp8 weight was quantized from in RAM, for an optimizer that it will not have."""
    for parameter in chunk.parameters():
        if hasattr(parameter, "clear_high_precision_init_val"):
            parameter.clear_high_precision_init_val()


def _save_adapters_only(chunk: Any) -> None:
    """Let checkpoints hold, and ask for, adapters alone; with delayed fp8 scaling its histories too."""
    describe, load = chunk.sharded_state_dict, chunk.load_state_dict
    histories = bool(chunk.config.fp8) and chunk.config.fp8_recipe == "delayed"

    def kept(name: str) -> bool:
        return is_adapter(name) or (histories and name.endswith("._extra_state"))

    def sharded_state_dict(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: entry for name, entry in describe(*args, **kwargs).items() if kept(name)}

    def load_state_dict(state: dict[str, Any], strict: bool = True) -> Any:
        wanted = {name for name, _ in chunk.named_parameters() if is_adapter(name)}
        other = wanted ^ {name for name in state if is_adapter(name)}
        if other:
            raise PeftError("peft-other-checkpoint", names=sorted(other)[:4])
        return load(state, strict=False)

    chunk.sharded_state_dict, chunk.load_state_dict = sharded_state_dict, load_state_dict


def is_adapter(name: str) -> bool:
    """Whether a parameter's or checkpoint's key is an adapter's."""
    return f"{SUFFIX}." in name


def freeze(chunks: list[Any], text: str) -> int:
    """Freeze the parts that --freeze names: `embedding`, `head`, `norms`, `layers.N`, `layers.N-M`.

    Returns:
        frozen elements on this rank.
    """
    layers = frozen_layers(text)
    words = frozen_words(text)
    frozen = 0
    for chunk in chunks:
        numbers = [layer.layer_number - 1 for layer in layers_of(chunk)]
        for name, parameter in chunk.named_parameters():
            if _is_frozen(name, words, layers, numbers):
                parameter.requires_grad_(False)
                frozen += parameter.numel()
        let_gradients_in(chunk)
    return frozen


def _is_frozen(name: str, words: set[str], layers: set[int], numbers: list[int]) -> bool:
    if name.startswith("decoder.layers."):
        inside = numbers[int(name.split(".")[2])] in layers
        return inside or ("norms" in words and "norm" in name)
    if name.startswith("embedding."):
        return "embedding" in words
    if name.startswith("output_layer."):
        return "head" in words
    return "norms" in words and "norm" in name
