"""Our side of the layer check: Megatron's own model, loaded by Megatron, one module in memory at a time.

A real `GPTModel` is built on the meta device, where it costs nothing, so that Megatron itself decides which layers
and slices this rank holds and how a checkpoint names them. Each module is then given memory, loaded through
`megatron.core.dist_checkpointing`, run, and emptied. Frequencies of RoPE are computed by Megatron from the
configuration; nothing comes from Hugging Face.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from megatron_patch.checkpoint.hf_start import local_tensors
from megatron_patch.checkpoint.layout import uneven_stages
from megatron_patch.models import ModelConfig, padded_vocab_size
from megatron_patch.models.megatron import gpt_fields, transformer_fields, yarn_attributes

LAYER_PARTS = ("input_norm", "query", "key", "value", "attention", "pre_mlp_norm", "mlp", "residual")
"""What is compared in a layer, in the order of the computation; query and key are after RoPE."""


def start_processes(tp: int, pp: int) -> None:
    """Join the process group of torchrun, or be a group of one, and lay the ranks out.

    `backend.enable("cpu")` must have been called.
    """
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    if not torch.distributed.is_initialized():
        if tp * pp == 1:
            alone = torch.distributed.HashStore()  # type: ignore[attr-defined]
            torch.distributed.init_process_group("gloo", store=alone, rank=0, world_size=1)
        else:
            torch.distributed.init_process_group("gloo")
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tp, pp)
    model_parallel_cuda_manual_seed(1234)


def transformer_config(model: ModelConfig, dtype: torch.dtype, tp: int, pp: int, **more: Any) -> Any:
    """Megatron's `TransformerConfig` of a model, nothing fused."""
    from megatron.core.transformer import TransformerConfig

    config = TransformerConfig(
        **transformer_fields(model),
        activation_func=F.silu,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        use_cpu_initialization=True,
        perform_initialization=False,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        **more,
    )
    for name, value in yarn_attributes(model).items():
        setattr(config, name, value)
    return config


def build_model(
    model: ModelConfig, vocab_size: int, config: Any, *, vp_stage: int | None = None, without_memory: bool = False
) -> Any:
    """Megatron's `GPTModel` for this rank, with the local layer spec.

    Args:
        vocab_size: unpadded.
        without_memory: on the meta device.
    """
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel

    from megatron_patch.backend.cpu.layers import local_layer_spec

    class Skeleton(GPTModel):  # type: ignore[misc]  # which has no types
        """For tied embeddings the original adds up the weights of two stages; on the meta device there are none."""

        def setup_embeddings_and_output_layer(self) -> None:
            """Nothing."""

    staging = {"ignore_virtual": vp_stage is None, "vp_stage": vp_stage}
    with torch.device("meta") if without_memory else contextlib.nullcontext():
        built = (Skeleton if without_memory else GPTModel)(
            config,
            local_layer_spec(SimpleNamespace(transformer=config), vp_stage),
            padded_vocab_size(vocab_size),
            pre_process=parallel_state.is_pipeline_first_stage(**staging),
            post_process=parallel_state.is_pipeline_last_stage(**staging),
            parallel_output=False,
            vp_stage=vp_stage,
            **gpt_fields(model),
        )
    return built.eval()


class MegatronSide:
    """One element type of our model on this rank."""

    def __init__(
        self,
        folder: Path,
        model: ModelConfig,
        dtype: torch.dtype,
        weights_dtype: torch.dtype,
        tp: int,
        pp: int,
    ) -> None:
        """
        Args:
            folder: a torch_dist folder whose metadata has been read safely before: Megatron unpickles it.
            dtype: what is computed in.
            weights_dtype: what the weights are rounded to first.
        """
        assert model.vocab_size is not None  # model_from_hf_config demands it
        self._folder, self._dtype, self._vocab_size = folder, dtype, model.vocab_size
        self._weights_dtype = weights_dtype
        config = transformer_config(model, dtype, tp, pp, **uneven_stages(model.num_layers, pp))
        self._model = build_model(model, model.vocab_size, config, without_memory=True)

    @property
    def layers(self) -> range:
        """The layers of the whole model that this stage holds."""
        numbers = [layer.layer_number - 1 for layer in self._model.decoder.layers]
        return range(numbers[0], numbers[-1] + 1) if numbers else range(0)

    @contextlib.contextmanager
    def _loaded(self, *prefixes: str) -> Iterator[None]:
        """Give memory to the modules of these names, load them, and take the memory away at the end."""
        from megatron.core import dist_checkpointing

        modules = [self._model.get_submodule(prefix) for prefix in prefixes]
        for module in modules:
            module.to_empty(device="cpu")
        pieces = [piece for piece in local_tensors(self._model) if piece.data.device.type != "meta"]
        # fills `data`, which is the parameter or a view of it, in place
        dist_checkpointing.load(
            {str(i): _with_layer_axis(piece) for i, piece in enumerate(pieces)},
            str(self._folder),
            validate_access_integrity=False,
        )
        for parameter in (p for module in modules for p in module.parameters()):
            parameter.data.copy_(parameter.data.to(self._weights_dtype))
        try:
            yield
        finally:
            for module in modules:
                module.to_empty(device="meta")

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """The first residual stream, [batch, sequence, hidden], from tokens [batch, sequence]. First stage only."""
        with self._loaded("embedding"):
            embedded: torch.Tensor = self._model.embedding(tokens, None)
            return embedded.transpose(0, 1).contiguous()

    def run_layer(self, number: int, inputs: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """One layer of this stage over several residual streams [batch, sequence, hidden].

        Returns:
            for each, the tensors of LAYER_PARTS; query, key and value as [batch, sequence, heads, head size] with the
            heads of all tensor-parallel ranks.
        """
        index = number - self.layers[0]
        with self._loaded(f"decoder.layers.{index}"):
            return [self._run(self._model.decoder.layers[index], stream.to(self._dtype)) for stream in inputs]

    def _run(self, layer: Any, stream: torch.Tensor) -> dict[str, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: Any, args: Any, output: Any) -> None:
                # a copy: outside training Megatron adds the residual in place
                seen[name] = (output[0] if isinstance(output, tuple) else output).transpose(0, 1).clone()

            return hook

        def keep_qkv(module: Any, args: Any, kwargs: Any) -> None:
            for name, tensor in zip(("query", "key", "value"), args, strict=False):
                seen[name] = gather_heads(tensor, self._heads(name)).transpose(0, 1)

        attention = layer.self_attention
        handles = [
            layer.input_layernorm.register_forward_hook(keep("input_norm")),
            attention.core_attention.register_forward_pre_hook(keep_qkv, with_kwargs=True),
            attention.linear_proj.register_forward_hook(keep("attention")),
            layer.pre_mlp_layernorm.register_forward_hook(keep("pre_mlp_norm")),
            layer.mlp.linear_fc2.register_forward_hook(keep("mlp")),
        ]
        try:
            rotary = self._model.rotary_pos_emb(stream.shape[1])
            rotary = rotary[0] if isinstance(rotary, tuple) else rotary  # YaRN's comes with its factor
            output, _ = layer(stream.transpose(0, 1).contiguous(), attention_mask=None, rotary_pos_emb=rotary)
        finally:
            for handle in handles:
                handle.remove()
        seen["residual"] = output.transpose(0, 1)
        return seen

    def _heads(self, name: str) -> int:
        config = self._model.config
        return int(config.num_attention_heads if name == "query" else config.num_query_groups)

    def run_head(self, inputs: list[torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        """Final norm and logits, [batch, sequence, vocabulary] without padding. Last stage only."""
        tied = self._model.share_embeddings_and_output_weights and self._model.pre_process
        with self._loaded("decoder.final_layernorm", "embedding" if tied else "output_layer"):
            for stream in inputs:
                norm = self._model.decoder.final_layernorm(stream.to(self._dtype).transpose(0, 1).contiguous())
                weight = self._model.embedding.word_embeddings.weight if tied else None
                logits, _ = self._model.output_layer(norm, weight=weight)
                shown = logits[..., : self._vocab_size].transpose(0, 1)
                yield {"final_norm": norm.transpose(0, 1), "logits": shown}


def _with_layer_axis(piece: Any) -> Any:
    """The same slice, its layer axis part of the data: Megatron 0.19.2 loads a prepended axis only as a whole."""
    lead = piece.prepend_axis_num
    data = piece.data.detach().view(*(1 for _ in range(lead)), *piece.local_shape)
    return replace(piece, data=data, local_shape=tuple(data.shape), prepend_axis_num=0)


def gather_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """All heads of [sequence, batch, this rank's heads, head size], where several ranks may hold one KV head."""
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    parts = [torch.empty_like(tensor.contiguous()) for _ in range(group.size())]
    torch.distributed.all_gather(parts, tensor.contiguous(), group=group)
    joined = torch.cat(parts, dim=2)
    return joined[:, :, :: joined.shape[2] // heads]
