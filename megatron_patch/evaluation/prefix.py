"""Score prompts that begin alike: the beginning goes through the model once per subject.

Prompts of one subject share its description, and its few-shot examples. Their keys and values are computed once,
kept, and read by every question; a batch may mix subjects, each row with its own beginning:

    keys     | beginning of the row's subject, padded to the longest | the row's own tokens, padded |
    queries                                                          | the row's own tokens, padded |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from tqdm import tqdm
from transformers import DynamicCache

from megatron_patch.evaluation.contexts import ChoiceScores, Context, pad_right, to_device

KEPT = 4
"""Cached tokens, as a multiple of the tokens of a batch: bounds the memory of keys and values."""

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, `[row, kv head, token, head dim]`."""


class Scorer(Protocol):
    """What is needed of scoring.FastHFLM."""

    model: Any
    """Of transformers, decoder only."""
    tokens_per_batch: int
    softmax_dtype: torch.dtype | None

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    def autocast(self) -> torch.autocast:
        """The arithmetic of a forward pass."""


@dataclass(kw_only=True)
class PrefixGroup:
    """Prompts with a common beginning."""

    prefix: list[int]
    contexts: list[Context]


def score_shared(lm: Scorer, contexts: list[Context], tasks: Sequence[str], bar: tqdm[Any]) -> ChoiceScores:
    """Score all contexts.

    Args:
        tasks: of each request; contexts of one task are taken to begin alike as far as they do.
    """
    scores = ChoiceScores()
    with bar, torch.no_grad(), lm.autocast():
        for groups in _fitting(group_by_prefix(contexts, tasks), KEPT * lm.tokens_per_batch):
            kept = _prefix_layers(lm, [group.prefix for group in groups])
            rows = [(i, context) for i, group in enumerate(groups) for context in group.contexts]
            rows.sort(key=lambda row: len(groups[row[0]].prefix) - len(row[1].tokens))
            for batch in _batches(rows, groups, lm.tokens_per_batch):
                hidden = _forward(lm, batch, [groups[i].prefix for i, _ in batch], kept)
                logits = lm.model.get_output_embeddings()(hidden)
                scores.add([context for _, context in batch], logits, lm.softmax_dtype)
                bar.update(sum(len(context.choices) for _, context in batch))
    return scores


def group_by_prefix(contexts: Sequence[Context], tasks: Sequence[str]) -> list[PrefixGroup]:
    """One group per task, with the longest beginning that all its contexts share and that scores nothing."""
    by_task: dict[str, list[Context]] = {}
    for context in contexts:
        by_task.setdefault(tasks[context.choices[0][0]], []).append(context)
    groups = []
    for members in by_task.values():
        common = _common_length([context.tokens for context in members])
        room = min(len(context.tokens) - context.scored for context in members)
        groups.append(PrefixGroup(prefix=members[0].tokens[: min(common, room)], contexts=members))
    return sorted(groups, key=lambda group: len(group.prefix))


def _common_length(rows: list[list[int]]) -> int:
    """How many leading tokens all rows share: as many as the first and the last in sorted order do."""
    first, last = min(rows), max(rows)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _fitting(groups: list[PrefixGroup], tokens: int) -> Iterator[list[PrefixGroup]]:
    """Consecutive groups whose padded prefixes together have at most that many tokens; at least one group."""
    part: list[PrefixGroup] = []
    for group in groups:
        if part and (len(part) + 1) * len(group.prefix) > tokens:
            yield part
            part = []
        part.append(group)
    if part:
        yield part


def _batches(
    rows: list[tuple[int, Context]], groups: list[PrefixGroup], tokens: int
) -> Iterator[list[tuple[int, Context]]]:
    """Rows, longest own part first, filled to at most that many own tokens and KEPT times as many keys."""
    longest_prefix = max(len(group.prefix) for group in groups)
    begin = 0
    while begin < len(rows):
        group, context = rows[begin]
        own = len(context.tokens) - len(groups[group].prefix)
        size = max(1, min(tokens // own, KEPT * tokens // (longest_prefix + own)))
        yield rows[begin : begin + size]
        begin += size


def _prefix_layers(lm: Scorer, prefixes: list[list[int]]) -> Layers:
    """Keys and values of the prefixes, padded to the longest; empty if there is no common beginning."""
    longest = max(map(len, prefixes))
    if longest == 0:
        return []
    size = max(1, lm.tokens_per_batch // longest)
    parts: list[Layers] = []
    for begin in range(0, len(prefixes), size):
        inputs = pad_right(prefixes[begin : begin + size], lm.device, longest)
        cache = lm.model.base_model(inputs, use_cache=True).past_key_values
        parts.append([(layer.keys, layer.values) for layer in cache.layers])
    return [
        (torch.cat([keys for keys, _ in layers]), torch.cat([values for _, values in layers]))
        for layers in zip(*parts, strict=True)
    ]


def _forward(lm: Scorer, batch: list[tuple[int, Context]], prefixes: list[list[int]], kept: Layers) -> torch.Tensor:
    """Last hidden states `[scored positions, hidden]` of a batch, in its order."""
    lengths = to_device([len(prefix) for prefix in prefixes], lm.device)
    own = pad_right([c.tokens[len(p) :] for (_, c), p in zip(batch, prefixes, strict=True)], lm.device)
    width = max(map(len, prefixes))
    positions = lengths[:, None] + torch.arange(own.shape[1], device=lm.device)
    cache = DynamicCache()
    chosen = to_device([group for group, _ in batch], lm.device)
    for number, (keys, values) in enumerate(kept if width else []):
        cache.update(keys[chosen, :, :width], values[chosen, :, :width], number)
    hidden: torch.Tensor = lm.model.base_model(
        own,
        attention_mask=_mask(lengths, width, own.shape[1], lm.model.dtype),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    where = [
        (row, column - len(prefix))
        for row, ((_, context), prefix) in enumerate(zip(batch, prefixes, strict=True))
        for column in range(len(context.tokens) - context.scored, len(context.tokens))
    ]
    rows, columns = (to_device(index, lm.device) for index in zip(*where, strict=True))
    return hidden[rows, columns]


def _mask(lengths: torch.Tensor, width: int, own: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive attention mask `[rows, 1, own, width + own]`: the row's prefix without its padding, then causal."""
    prefix = torch.arange(width, device=lengths.device) < lengths[:, None]
    causal = torch.ones(own, own, dtype=torch.bool, device=lengths.device).tril()
    allowed = torch.cat([prefix[:, None].expand(-1, own, -1), causal.expand(len(lengths), -1, -1)], dim=-1)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=lengths.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
