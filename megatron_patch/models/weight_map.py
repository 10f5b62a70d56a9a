"""The one table of weights: which rows of which Hugging Face tensor make which Megatron tensor.

Every difference between the two is a matter of whole rows: Megatron stacks the layers `[L, ...]`, fuses q, k and v
per KV group (the group's query heads, its k head, its v head), and puts the gate rows above the up rows. So one list
of row spans describes a tensor, and `invert` turns the table round. The converter, the layer check, the direct start
from Hugging Face and the per-rank files all read it. What not every model has (biases, q/k norm) names the field of
ModelConfig that says so.

Names are those of Transformer Engine's layer spec, which Megatron also writes for its local spec.
Source: `sharded_state_dict` of `GPTModel` in megatron-core 0.19.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_patch.models.config import ModelConfig, padded_vocab_size


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
    """Shape of one row: `(columns,)` for a matrix, `()` for a norm or a bias."""
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
ROWS, HALVES, COLUMNS, WHOLE = "rows", "rows of each half", "columns", "whole"
"""What a tensor-parallel rank holds of a tensor."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A row of the table: one Megatron tensor of a layer, and what it is made of."""

    megatron: str
    """Under `decoder.layers.`."""
    hf: tuple[str, ...]
    """Under `model.layers.N.`."""
    how: str = AS_IS
    split: str = WHOLE
    where: str | None = None
    """The field of ModelConfig that must be set for a model to have it; None: every model has it."""


def _qkv(part: str) -> tuple[str, ...]:
    return tuple(f"self_attn.{one}_proj.{part}" for one in "qkv")


LAYER_WEIGHTS: tuple[Weight, ...] = (
    Weight(megatron="self_attention.linear_qkv.layer_norm_weight", hf=("input_layernorm.weight",)),
    Weight(megatron="self_attention.linear_qkv.weight", hf=_qkv("weight"), how=FUSED_QKV, split=ROWS),
    Weight(megatron="self_attention.linear_qkv.bias", hf=_qkv("bias"), how=FUSED_QKV, split=ROWS, where="qkv_bias"),
    Weight(megatron="self_attention.q_layernorm.weight", hf=("self_attn.q_norm.weight",), where="qk_norm"),
    Weight(megatron="self_attention.k_layernorm.weight", hf=("self_attn.k_norm.weight",), where="qk_norm"),
    Weight(megatron="self_attention.linear_proj.weight", hf=("self_attn.o_proj.weight",), split=COLUMNS),
    Weight(megatron="mlp.linear_fc1.layer_norm_weight", hf=("post_attention_layernorm.weight",)),
    Weight(
        megatron="mlp.linear_fc1.weight", hf=("mlp.gate_proj.weight", "mlp.up_proj.weight"), how=GATE_UP, split=HALVES
    ),
    Weight(megatron="mlp.linear_fc2.weight", hf=("mlp.down_proj.weight",), split=COLUMNS),
)
"""Of one layer, in the order of a forward pass."""

MODEL_WEIGHTS: tuple[tuple[str, str], ...] = (
    ("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    ("decoder.final_layernorm.weight", "model.norm.weight"),
    ("output_layer.weight", "lm_head.weight"),
)
"""Outside the layers, as is, the vocabulary padded. The last is absent when the embeddings are tied."""

MEGATRON_LAYER, HF_LAYER = "decoder.layers.", "model.layers."

LAYER_EXTRA_STATES: tuple[tuple[str, str | None], ...] = (
    ("self_attention.core_attention._extra_state", None),
    ("self_attention.linear_proj._extra_state", None),
    ("self_attention.linear_qkv._extra_state", None),
    ("self_attention.q_layernorm._extra_state", "qk_norm"),
    ("self_attention.k_layernorm._extra_state", "qk_norm"),
    ("mlp.linear_fc1._extra_state", None),
    ("mlp.linear_fc2._extra_state", None),
)
"""Entries without content that Megatron asks a checkpoint for, and the field of ModelConfig that must be set.
Transformer Engine's names are a superset of the local layer spec's."""

MODEL_EXTRA_STATES = ("decoder.final_layernorm._extra_state",)

_SPLITS = {MEGATRON_LAYER + weight.megatron: weight.split for weight in LAYER_WEIGHTS}


def has(model: ModelConfig, where: str | None) -> bool:
    """Whether a model has a weight of the table."""
    return where is None or bool(getattr(model, where))


def split_of(name: str, dimensions: int) -> str:
    """How a Megatron tensor is divided over tensor-parallel ranks.

    Args:
        name: in a torch_dist checkpoint.
        dimensions: of one layer's tensor; tells embedding and LM head, which are divided by rows, from norms.
    """
    return _SPLITS.get(name, ROWS if dimensions > 1 else WHOLE)


def hf_shapes(model: ModelConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Every Hugging Face tensor of a model and its shape.

    Args:
        vocab_size: rows of the embedding as Hugging Face stores it, unpadded.
    """
    h, ffn, query, kv = model.hidden_size, model.ffn_hidden_size, model.query_width, model.kv_width
    sizes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (h,),
        "self_attn.q_proj.weight": (query, h),
        "self_attn.q_proj.bias": (query,),
        "self_attn.k_proj.weight": (kv, h),
        "self_attn.k_proj.bias": (kv,),
        "self_attn.v_proj.weight": (kv, h),
        "self_attn.v_proj.bias": (kv,),
        "self_attn.q_norm.weight": (model.head_dim,),
        "self_attn.k_norm.weight": (model.head_dim,),
        "self_attn.o_proj.weight": (h, query),
        "post_attention_layernorm.weight": (h,),
        "mlp.gate_proj.weight": (ffn, h),
        "mlp.up_proj.weight": (ffn, h),
        "mlp.down_proj.weight": (h, ffn),
    }
    ends: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab_size, h),
        "model.norm.weight": (h,),
        "lm_head.weight": (vocab_size, h),
    }
    if model.tie_embeddings:
        del ends["lm_head.weight"]
    held = {name for weight in LAYER_WEIGHTS if has(model, weight.where) for name in weight.hf}
    layers = range(model.num_layers)
    return ends | {f"{HF_LAYER}{i}.{name}": size for i in layers for name, size in sizes.items() if name in held}


def hf_tensors(model: ModelConfig, vocab_size: int) -> list[Tensor]:
    """The same as tensors to be made, each from its own rows: for folders whose weights stay as they are."""
    return [
        Tensor(name=name, rows=rows, row_shape=tuple(rest), spans=(Span(name=name, start=0, rows=rows),))
        for name, (rows, *rest) in hf_shapes(model, vocab_size).items()
    ]


def megatron_tensors(model: ModelConfig, vocab_size: int) -> list[Tensor]:
    """Every Megatron tensor of a model, each made of Hugging Face spans, in the order of a forward pass.

    Args:
        vocab_size: unpadded; the Megatron side is padded to `padded_vocab_size`.
    """
    sizes = hf_shapes(model, vocab_size)
    layers = [
        _layer_tensor(weight, layer, sizes, model)
        for layer in range(model.num_layers)
        for weight in LAYER_WEIGHTS
        if has(model, weight.where)
    ]
    ends = []
    for name, source in MODEL_WEIGHTS:
        if source in sizes:
            rows, *row_shape = sizes[source]
            padded = padded_vocab_size(rows) if row_shape else rows
            spans = (Span(name=source, start=0, rows=rows),)
            ends.append(Tensor(name=name, rows=padded, row_shape=tuple(row_shape), spans=spans))
    return [ends[0], *layers, *ends[1:]]


def _layer_tensor(weight: Weight, layer: int, sizes: dict[str, tuple[int, ...]], model: ModelConfig) -> Tensor:
    sources = [f"{HF_LAYER}{layer}.{name}" for name in weight.hf]
    if weight.how == FUSED_QKV:
        head, per_group = model.head_dim, model.num_attention_heads // model.num_query_groups
        rows_in_group = (per_group * head, head, head)
        spans = tuple(
            Span(name=source, start=group * rows, rows=rows)
            for group in range(model.num_query_groups)
            for source, rows in zip(sources, rows_in_group, strict=True)
        )
    else:
        spans = tuple(Span(name=source, start=0, rows=sizes[source][0]) for source in sources)
    return Tensor(
        name=MEGATRON_LAYER + weight.megatron,
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


def extra_state_names(model: ModelConfig) -> list[str]:
    """The keys of the empty `_extra_state` entries, as `ShardedObject.unique_key` spells them."""
    count = model.num_layers
    names = [name for name, where in LAYER_EXTRA_STATES if has(model, where)]
    layers = [f"{MEGATRON_LAYER}{name}/shard_{i}_{count}" for name in names for i in range(count)]
    return layers + [f"{name}/shard_0_1" for name in MODEL_EXTRA_STATES]
