"""Hugging Face's side of the layer check: transformers' own modules of the family, one in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import torch

from megatron_patch.checkpoint.formats.sources import Source
from megatron_patch.checkpoint.formats.torch_dist import TORCH_DTYPES
from megatron_patch.models import ModelConfig, family_of

ATTENTION = "megatron_patch_observed"


class HFSide:
    """The reference."""

    def __init__(
        self, model: ModelConfig, config: Mapping[str, Any], source: Source, weights_dtype: torch.dtype
    ) -> None:
        """
        Args:
            config: config.json.
            source: of tensors by their Hugging Face names.
            weights_dtype: what the weights are rounded to before they are computed with in any other type.
        """
        import transformers
        from transformers import AttentionInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        family = family_of(model)
        self._seen: dict[str, torch.Tensor] = {}

        def observed(
            module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **more: Any
        ) -> Any:
            for name, tensor in (("query", query), ("key", key), ("value", value)):
                self._seen[name] = tensor.transpose(1, 2)  # [batch, sequence, heads, head size]
            return sdpa_attention_forward(module, query, key, value, *args, **more)

        attention = f"{ATTENTION}_{id(self):x}"  # each side sees its own
        AttentionInterface.register(attention, observed)
        modules = import_module(family.transformers_module)
        self._layer_class = getattr(modules, family.transformers_class("DecoderLayer"))
        self._norm_class = getattr(modules, family.transformers_class("RMSNorm"))
        self._weights_dtype = weights_dtype
        self._source, self._tied = source, model.tie_embeddings
        config_class = getattr(transformers, family.transformers_class("Config"))
        self._config = config_class.from_dict(dict(config), attn_implementation=attention)
        self._rotary = getattr(modules, family.transformers_class("RotaryEmbedding"))(self._config)

    def _load(self, module: torch.nn.Module, prefix: str, dtype: torch.dtype) -> Any:
        """Give memory to a module built on the meta device, and fill it tensor by tensor."""
        module.to(dtype).to_empty(device="cpu")
        for name, parameter in module.named_parameters():
            full = f"{prefix}{name}"
            stored = TORCH_DTYPES[self._source.element_type(full)]
            same = stored == dtype == self._weights_dtype
            read = parameter.data if same else torch.empty(parameter.shape, dtype=stored)
            self._source.read_rows(full, None, 0, read)
            if not same:
                parameter.data.copy_(read.to(self._weights_dtype))
        return module.eval()

    def embed(self, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The first residual stream, [batch, sequence, hidden], from tokens [batch, sequence]."""
        with torch.device("meta"):
            module = torch.nn.Embedding(self._config.vocab_size, self._config.hidden_size)
        embedded: torch.Tensor = self._load(module, "model.embed_tokens.", dtype)(tokens)
        return embedded

    def run_layer(self, number: int, inputs: list[torch.Tensor], dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
        """One layer over several residual streams; the tensors of LAYER_PARTS (`megatron.py`) for each."""
        with torch.device("meta"):
            layer = self._layer_class(self._config, number)
        self._load(layer, f"model.layers.{number}.", dtype)
        return [self._run(layer, stream.to(dtype)) for stream in inputs]

    def _run(self, layer: Any, stream: torch.Tensor) -> dict[str, torch.Tensor]:
        self._seen = {}
        names = {
            "input_norm": layer.input_layernorm,
            "attention": layer.self_attn.o_proj,
            "pre_mlp_norm": layer.post_attention_layernorm,
            "mlp": layer.mlp,
        }
        seen = self._seen
        handles = [
            module.register_forward_hook(lambda m, a, output, name=name: seen.__setitem__(name, output))
            for name, module in names.items()
        ]
        positions = torch.arange(stream.shape[1])[None]
        seen["residual"] = layer(stream, position_embeddings=self._rotary(stream, positions))
        for handle in handles:
            handle.remove()
        return seen

    def run_head(self, inputs: list[torch.Tensor], dtype: torch.dtype) -> Iterator[dict[str, torch.Tensor]]:
        """Final norm and logits [batch, sequence, vocabulary] of several residual streams."""
        config, tied = self._config, self._tied
        with torch.device("meta"):
            norm = self._norm_class(config.hidden_size, eps=config.rms_norm_eps)
            head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._load(norm, "model.norm.", dtype)
        self._load(head, "model.embed_tokens." if tied else "lm_head.", dtype)
        for stream in inputs:
            normed = norm(stream.to(dtype))
            yield {"final_norm": normed, "logits": head(normed)}
