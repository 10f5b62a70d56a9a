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
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix
from tqdm import tqdm
from transformers import masking_utils

from megatron_patch.common.messages import localized, say
from megatron_patch.evaluation.contexts import ChoiceScores, Context, Request, contexts_of, pad_right, scored_positions
from megatron_patch.evaluation.prefix import score_shared
from megatron_patch.models import by_model_type


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
        config = self.model.config
        if scoring == "shared" and config.model_type not in by_model_type():
            say("scoring-kind", known=tuple(by_model_type()), found=config.model_type)
            self.scoring = "exact"
        elif scoring == "shared" and getattr(config, "sliding_window", None) is not None:
            say("scoring-window", window=config.sliding_window)
            self.scoring = "exact"
        if self.scoring != "plain" and (self.backend != "causal" or self.batch_size == "auto"):
            say("scoring-plain")
            self.scoring = "plain"

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the greedy one."""
        started = time.monotonic()
        answers = self._loglikelihood(requests, disable_tqdm)
        self.scoring_seconds += time.monotonic() - started
        return answers

    def _loglikelihood(self, requests: list[Any], disable_tqdm: bool) -> list[tuple[float, bool]]:
        if self.scoring == "plain" or any(request.args[0] == "" for request in requests):
            plain: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
            return plain
        encoded = self._encode_pairs([request.args for request in requests])
        if self.scoring == "exact":
            return self._loglikelihood_tokens(encoded, disable_tqdm)
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
            plain: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
            return plain
        contexts = contexts_of(requests, self.max_length)
        scores = ChoiceScores()
        with _bar(requests, self.rank, disable_tqdm) as bar, _never_packed():
            for batch in _chunks(contexts, override_bs or self.batch_size):
                logits = self._logits(pad_right([context.tokens for context in batch], self.device))
                scores.add(batch, logits[scored_positions(batch, self.device)], self.softmax_dtype)
                bar.update(sum(len(context.choices) for context in batch))
        return self._finish(requests, scores)

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self.autocast():
            logits: torch.Tensor = self.model(tokens, use_cache=False).logits
        return logits

    def autocast(self) -> torch.autocast:
        dtype = self.mixed_precision_dtype
        return torch.autocast(device_type=self.device.type, dtype=dtype, enabled=dtype is not None)

    def _finish(self, requests: Sequence[Request], scores: ChoiceScores) -> list[tuple[float, bool]]:
        answers = scores.answers(len(requests))
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers


@contextmanager
def _never_packed() -> Iterator[None]:
    """While inside, transformers does not look whether positions start again within a row.

    It looks in each forward pass without a cache, and waits for the GPU to know; where a model counts the positions
    itself, as ours do, they never start again.
    """
    before = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = before


def _chunks(contexts: list[Context], size: int) -> Iterator[list[Context]]:
    for begin in range(0, len(contexts), size):
        yield contexts[begin : begin + size]


def _bar(requests: Sequence[Request], rank: int, disable: bool) -> tqdm[Any]:
    head, unit = localized("scoring-bar"), localized("scoring-unit")
    return tqdm(total=len(requests), disable=disable or rank != 0, desc=head, unit=unit)
