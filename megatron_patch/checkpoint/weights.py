"""The one table of weights: which rows of which Hugging Face tensor make which Megatron tensor.

Every layout difference of the Llama architecture is a matter of whole rows: Megatron stacks the layers
`[L, ...]`, fuses q, k and v per KV group (the group's query heads, its k head, its v head), and puts the
gate rows above the up rows. So one list of row spans describes a tensor, and `invert` turns the table
round. The converter, the layer check and the direct start from Hugging Face all read it.

Names are those of Transformer Engine's layer spec, which Megatron also writes for its local spec.
Source: `sharded_state_dict` of `GPTModel` in megatron-core 0.19.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_patch.models import ModelConfig, padded_vocab_size


@dataclass(frozen=True, kw_only=True)
class Span:
    """Rows `start` to `start + rows` of the tensor `name`, at `layer` if that tensor is stacked over layers."""

    name: str
    layer: int | None = None
    start: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor to be made (one layer's slice of it if `layer` is set) and the spans that its rows come from."""

    name: str
    layer: int | None = None
    """Index into the leading axis of a stacked Megatron tensor; None for Hugging Face and unstacked ones."""
    rows: int
    row_shape: tuple[int, ...]
    """Shape of one row: `(columns,)` for a matrix, `()` for a norm."""
    spans: tuple[Span, ...]
    """In the order of the rows. Rows beyond them are padding and hold zeros."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the layer axis."""
        return (self.rows, *self.row_shape)

    @property
    def row_numel(self) -> int:
        """Elements in one row."""
        return self.row_shape[0] if self.row_shape else 1

    def cut(self, start: int, rows: int) -> Iterator[tuple[int, Span]]:
        """The parts of the spans that make rows `start` to `start + rows`, each with its offset from `start`."""
        cursor = 0
        for span in self.spans:
            first, last = max(start, cursor), min(start + rows, cursor + span.rows)
            if first < last:
                yield first - start, replace(span, start=span.start + first - cursor, rows=last - first)
            cursor += span.rows


AS_IS, FUSED_QKV, GATE_UP = "as is", "fused qkv", "gate above up"

LAYER_TABLE: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("self_attention.linear_qkv.layer_norm_weight", AS_IS, ("input_layernorm",)),
    ("self_attention.linear_qkv.weight", FUSED_QKV, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attention.linear_proj.weight", AS_IS, ("self_attn.o_proj",)),
    ("mlp.linear_fc1.layer_norm_weight", AS_IS, ("post_attention_layernorm",)),
    ("mlp.linear_fc1.weight", GATE_UP, ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.linear_fc2.weight", AS_IS, ("mlp.down_proj",)),
)
"""Of one layer: Megatron's name, the transform, the Hugging Face names; under the two prefixes below."""

MODEL_TABLE: tuple[tuple[str, str], ...] = (
    ("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    ("decoder.final_layernorm.weight", "model.norm.weight"),
    ("output_layer.weight", "lm_head.weight"),
)
"""Outside the layers, as is, the vocabulary padded. The last is absent when the embeddings are tied."""

MEGATRON_LAYER, HF_LAYER = "decoder.layers.", "model.layers."

LAYER_EXTRA_STATES = (
    "self_attention.core_attention._extra_state",
    "self_attention.linear_proj._extra_state",
    "self_attention.linear_qkv._extra_state",
    "mlp.linear_fc1._extra_state",
    "mlp.linear_fc2._extra_state",
)
"""Entries without content that Megatron asks a checkpoint for; Transformer Engine's names are a superset."""

MODEL_EXTRA_STATES = ("decoder.final_layernorm._extra_state",)


def hf_shapes(shape: ModelConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Every Hugging Face tensor of a model and its shape.

    Args:
        vocab_size: rows of the embedding as Hugging Face stores it, unpadded.
    """
    h, ffn = shape.hidden_size, shape.ffn_hidden_size
    query, kv = shape.head_dim * shape.num_attention_heads, shape.head_dim * shape.num_query_groups
    layer = {
        "input_layernorm": (h,),
        "self_attn.q_proj": (query, h),
        "self_attn.k_proj": (kv, h),
        "self_attn.v_proj": (kv, h),
        "self_attn.o_proj": (h, query),
        "post_attention_layernorm": (h,),
        "mlp.gate_proj": (ffn, h),
        "mlp.up_proj": (ffn, h),
        "mlp.down_proj": (h, ffn),
    }
    model = {
        "model.embed_tokens.weight": (vocab_size, h),
        "model.norm.weight": (h,),
        "lm_head.weight": (vocab_size, h),
    }
    if shape.tie_embeddings:
        del model["lm_head.weight"]
    layers = {f"{HF_LAYER}{i}.{name}.weight": size for i in range(shape.num_layers) for name, size in layer.items()}
    return model | layers


def megatron_tensors(shape: ModelConfig, vocab_size: int) -> list[Tensor]:
    """Every Megatron tensor of a model, each made of Hugging Face spans, in the order of a forward pass.

    Args:
        vocab_size: unpadded; the Megatron side is padded to `families.padded_vocab_size`.
    """
    sizes = hf_shapes(shape, vocab_size)
    layers = [
        _layer_tensor(name, i, transform, [f"{HF_LAYER}{i}.{hf}.weight" for hf in sources], sizes, shape)
        for i in range(shape.num_layers)
        for name, transform, sources in LAYER_TABLE
    ]
    ends = []
    for name, source in MODEL_TABLE:
        if source in sizes:
            rows, *row_shape = sizes[source]
            padded = padded_vocab_size(rows) if row_shape else rows
            spans = (Span(name=source, start=0, rows=rows),)
            ends.append(Tensor(name=name, rows=padded, row_shape=tuple(row_shape), spans=spans))
    return [ends[0], *layers, *ends[1:]]


def _layer_tensor(
    name: str, layer: int, transform: str, sources: list[str], sizes: dict[str, tuple[int, ...]], shape: ModelConfig
) -> Tensor:
    if transform == FUSED_QKV:
        head, per_group = shape.head_dim, shape.num_attention_heads // shape.num_query_groups
        rows_in_group = (per_group * head, head, head)
        spans = tuple(
            Span(name=source, start=group * rows, rows=rows)
            for group in range(shape.num_query_groups)
            for source, rows in zip(sources, rows_in_group, strict=True)
        )
    else:
        spans = tuple(Span(name=source, start=0, rows=sizes[source][0]) for source in sources)
    return Tensor(
        name=MEGATRON_LAYER + name,
        layer=layer,
        rows=sum(span.rows for span in spans),
        row_shape=sizes[sources[0]][1:],
        spans=spans,
    )


def invert(tensors: list[Tensor]) -> list[Tensor]:
    """The table turned round: the tensors that `tensors` are made of, made of `tensors`. Padding is left out."""
    found: dict[str, list[tuple[int, Span]]] = {}
    row_shapes: dict[str, tuple[int, ...]] = {}
    for tensor in tensors:
        cursor = 0
        for span in tensor.spans:
            back = Span(name=tensor.name, layer=tensor.layer, start=cursor, rows=span.rows)
            found.setdefault(span.name, []).append((span.start, back))
            row_shapes[span.name] = tensor.row_shape
            cursor += span.rows
    made = []
    for name, parts in found.items():
        parts.sort(key=lambda part: part[0])
        spans = tuple(span for _, span in parts)
        made.append(Tensor(name=name, rows=sum(s.rows for s in spans), row_shape=row_shapes[name], spans=spans))
    return made


def pad_vocabulary(tensors: list[Tensor], rows: int) -> list[Tensor]:
    """The same Megatron tensors with so many rows of vocabulary."""
    return [replace(t, rows=rows) if t.layer is None and t.row_shape else t for t in tensors]


def from_megatron(tensors: list[Tensor], stored_rows: int) -> list[Tensor]:
    """Megatron tensors made of themselves: what one Megatron checkpoint takes from another.

    Training moves the rows of padding too, as they are in the softmax: they are kept as far as both sides have them.

    Args:
        stored_rows: of the vocabulary in the checkpoint that is read, with its padding.
    """
    made = []
    for tensor in tensors:
        rows = min(tensor.rows, stored_rows) if tensor.layer is None and tensor.row_shape else tensor.rows
        span = Span(name=tensor.name, layer=tensor.layer, start=0, rows=rows)
        made.append(replace(tensor, spans=(span,)))
    return made


def stacked_shape(tensor: Tensor, num_layers: int) -> tuple[int, ...]:
    """The shape that a Megatron checkpoint records: with the layer axis in front, if the tensor has one."""
    return tensor.shape if tensor.layer is None else (num_layers, *tensor.shape)


def extra_state_names(num_layers: int) -> list[str]:
    """The keys of the empty `_extra_state` entries, as `ShardedObject.unique_key` spells them."""
    layers = [
        f"{MEGATRON_LAYER}{name}/shard_{i}_{num_layers}" for name in LAYER_EXTRA_STATES for i in range(num_layers)
    ]
    return layers + [f"{name}/shard_0_1" for name in MODEL_EXTRA_STATES]
