"""What a model reads for multiple-choice questions, in the order of lm_eval's batches, and how choices scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from megatron_patch.common.messages import say

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""Texts, context tokens, continuation tokens: as in lm_eval."""


@dataclass(kw_only=True)
class Context:
    """What the model reads once, and the choices that are scored at its end."""

    tokens: list[int]
    scored: int
    """Number of last positions whose logits are needed: tokens of the longest choice."""
    choices: list[tuple[int, list[int]]] = field(default_factory=list)
    """Number of the request, and its continuation's tokens."""


class ChoiceScores:
    """Log-probabilities of choices; they stay on the device until all are asked for."""

    def __init__(self) -> None:
        self._choices: list[tuple[int, list[int]]] = []
        self._values: list[torch.Tensor] = []
        self._greedy: list[torch.Tensor] = []

    def add(self, batch: Sequence[Context], logits: torch.Tensor, dtype: torch.dtype | None) -> None:
        """Score the choices of a batch.

        Args:
            logits: `[rows, vocabulary]`, the `scored` last positions of each context, one context after another.
            dtype: of the softmax; the logits' own if None, as in lm_eval.
        """
        rows: list[int] = []
        tokens: list[int] = []
        end = 0
        for context in batch:
            end += context.scored
            for _, choice in context.choices:
                rows += range(end - len(choice), end)
                tokens += choice
            self._choices += context.choices
        row_index, token_index = to_device(rows, logits.device), to_device(tokens, logits.device)
        logprobs = F.log_softmax(logits, dim=-1, dtype=dtype)
        self._values.append(logprobs[row_index, token_index])
        self._greedy.append(logprobs.argmax(dim=-1)[row_index] == token_index)

    def answers(self, count: int) -> list[tuple[float, bool]]:
        """In the order of the requests: the sum over a choice's tokens, and whether all of them are the greedy ones."""
        values, greedy = torch.cat(self._values).cpu(), torch.cat(self._greedy).cpu()
        answers: list[tuple[float, bool]] = [(float("nan"), False)] * count
        begin = 0
        for number, choice in self._choices:
            end = begin + len(choice)
            answers[number] = (float(values[begin:end].sum()), bool(greedy[begin:end].all()))
            begin = end
        return answers


def contexts_of(requests: Sequence[Request], max_length: int) -> list[Context]:
    """Group choices that need the same input, longest input first: the order in which lm_eval batches them."""
    groups: dict[tuple[int, ...], list[tuple[int, Request]]] = {}
    for number, request in enumerate(requests):
        groups.setdefault((*request[1], *request[2][:-1]), []).append((number, request))
    keyed = []
    too_long = 0
    for members in groups.values():
        _, (_, context, continuation) = max(members, key=lambda member: len(member[1][2]))
        whole = context + continuation
        too_long += len(whole) > max_length + 1
        choices = [(number, request[2]) for number, request in members]
        tokens = whole[-(max_length + 1) :][:-1]
        keyed.append(((-len(whole), tuple(whole)), Context(tokens=tokens, scored=len(continuation), choices=choices)))
    if too_long:
        say("contexts-cut", cut=too_long, contexts=len(keyed), most=max_length)
    return [context for _, context in sorted(keyed, key=lambda pair: pair[0])]


def pad_right(rows: Sequence[Sequence[int]], device: torch.device, width: int = 0) -> torch.Tensor:
    """`[rows, width or longest]`, filled up with zeros, which causal attention never looks at."""
    longest = width or max(map(len, rows))
    return to_device([[*row, *[0] * (longest - len(row))] for row in rows], device)


def scored_positions(batch: Sequence[Context], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Row and column of each scored position in a right-padded batch."""
    where = [
        (row, column)
        for row, context in enumerate(batch)
        for column in range(len(context.tokens) - context.scored, len(context.tokens))
    ]
    return tuple(to_device(index, device) for index in zip(*where, strict=True))


def to_device(values: Sequence[Any], device: torch.device) -> torch.Tensor:
    """A tensor of integers, sent without waiting for what the device is doing."""
    tensor = torch.tensor(values, dtype=torch.long)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
