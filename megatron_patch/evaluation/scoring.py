"""lm_eval's Hugging Face backend, scoring multiple choice faster.

Three ways, from slowest to fastest:

`plain`   lm_eval 0.4.13 as it is.
`exact`   the same batches through the same layers, so the same floats; but the log-softmax is taken only where a
          choice is scored instead of at every position over the whole vocabulary, nothing waits for the GPU inside
          the loop (upstream asks it for five values per choice), no key-value cache is kept, and texts are
          tokenized once each and all together.
`shared`  also computes what the prompts of a subject have in common (its description, and few-shot examples)
          once, applies the output layer only where it is needed, and fills batches by tokens. Sums run in another
          order, so log-likelihoods differ in their last bits: an answer whose two best choices are closer than
          that may change.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix
from tqdm import tqdm

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


class FastHFLM(HFLM):
    """HFLM with a faster `loglikelihood`; everything else is upstream's."""

    def __init__(self, *args: Any, scoring: str = "exact", tokens_per_batch: int = 16384, **kwargs: Any) -> None:
        """See HFLM.

        Args:
            scoring: see the module; `exact` and `shared` apply to decoder-only models.
            tokens_per_batch: for `shared`, instead of `batch_size`.
        """
        super().__init__(*args, **kwargs)
        self.scoring, self.tokens_per_batch = scoring, tokens_per_batch
        self.scoring_seconds = 0.0
        """Spent in `loglikelihood`, tokenizing included."""
        if scoring == "shared" and self.model.config.model_type != "llama":
            print(f"scoring: shared is for Llama, this is {self.model.config.model_type}: exact is used")
            self.scoring = "exact"
        if self.scoring != "plain" and (self.backend != "causal" or self.batch_size == "auto"):
            print("scoring: an encoder-decoder model, or batch size auto: plain is used")
            self.scoring = "plain"

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the greedy one."""
        started = time.monotonic()
        answers = self._loglikelihood(requests, disable_tqdm)
        self.scoring_seconds += time.monotonic() - started
        return answers

    def _loglikelihood(self, requests: list[Any], disable_tqdm: bool) -> list[tuple[float, bool]]:
        if self.scoring == "plain" or any(request.args[0] == "" for request in requests):
            return super().loglikelihood(requests, disable_tqdm)
        encoded = self._encode_pairs([request.args for request in requests])
        if self.scoring == "exact":
            return self._loglikelihood_tokens(encoded, disable_tqdm)
        from megatron_patch.evaluation.prefix import score_shared

        tasks = [request.task_name for request in requests]
        scores = score_shared(
            self, contexts_of(encoded, self.max_length), tasks, _bar(encoded, self.rank, disable_tqdm)
        )
        return self._finish(encoded, scores)

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Request]:
        """Upstream's `_encode_pair` for many pairs, each distinct text encoded once."""
        split: list[tuple[str, str]] = []
        for context, continuation in pairs:
            bare = context.rstrip()
            split.append((bare, context[len(bare) :] + continuation))
        texts = dict.fromkeys(text for c, k in split for text in (c + k, c))
        tokens = self._encode_texts(list(texts))
        return [(pair, tokens[c], tokens[c + k][len(tokens[c]) :]) for pair, (c, k) in zip(pairs, split, strict=True)]

    def _encode_texts(self, texts: list[str]) -> dict[str, list[int]]:
        """Upstream's `tok_encode` for many texts."""
        bos = self.tokenizer.decode(self.prefix_token_id)
        have_bos = [text for text in texts if has_bos_prefix(text, bos)]
        others = [text for text in texts if not has_bos_prefix(text, bos)]
        usual = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
        tokens: dict[str, list[int]] = {}
        for group, special in ((have_bos, {"add_special_tokens": False}), (others, usual)):
            if group:
                tokens.update(zip(group, self.tokenizer(group, **special)["input_ids"], strict=True))
        return tokens

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Upstream's batches and forward passes; see `exact` in the module."""
        if self.scoring == "plain":
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        contexts = contexts_of(requests, self.max_length)
        scores = Scores()
        with _bar(requests, self.rank, disable_tqdm) as bar:
            for batch in _chunks(contexts, override_bs or self.batch_size):
                inputs = pad_right([context.tokens for context in batch], self.device)
                with torch.no_grad(), self._autocast():
                    logits = self.model(inputs, use_cache=False).logits
                scores.add(batch, logits[scored_positions(batch, self.device)], self.softmax_dtype)
                bar.update(sum(len(context.choices) for context in batch))
        return self._finish(requests, scores)

    def _autocast(self) -> torch.autocast:
        dtype = self.mixed_precision_dtype
        return torch.autocast(device_type=self.device.type, dtype=dtype, enabled=dtype is not None)

    def _finish(self, requests: Sequence[Request], scores: Scores) -> list[tuple[float, bool]]:
        answers = scores.answers(len(requests))
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers


class Scores:
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
        print(f"{too_long} of {len(keyed)} contexts exceed the model's {max_length} tokens: cut at their beginning")
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


def _chunks(contexts: list[Context], size: int) -> Iterator[list[Context]]:
    for begin in range(0, len(contexts), size):
        yield contexts[begin : begin + size]


def _bar(requests: Sequence[Request], rank: int, disable: bool) -> tqdm:
    return tqdm(total=len(requests), disable=disable or rank != 0, desc="Scoring choices", unit="choice")
