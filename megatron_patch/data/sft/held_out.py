"""A share of the conversations held out for validation: MP_SPLIT."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_patch.common.messages import Message
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.loss_mask import Tokens
from megatron_patch.data.sft.prepare import Component
from megatron_patch.data.sft.selection import Mask, Samples, SelectedRows

SEED = 1234
"""Of the choice: not the run's, so that a run that goes on with another one holds out the same."""


@dataclass(frozen=True, kw_only=True)
class SomeSamples:
    """Some of a dataset's samples: `Samples`."""

    whole: Samples
    numbers: npt.NDArray[np.int64]
    """[samples], numbers in the whole, ascending."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """See `Samples`."""
        return self.whole.lengths[self.numbers]

    def sample(self, number: int) -> tuple[Tokens, Tokens, Mask]:
        """See `Samples`."""
        return self.whole.sample(int(self.numbers[number]))

    def origin(self, number: int) -> Message | str:
        """See `Samples`."""
        return self.whole.origin(int(self.numbers[number]))


def hold_out(component: Component, split: str) -> tuple[Component, Component]:
    """A dataset's part for training and its part for validation, chosen at random, the same at each start.

    Samples of one conversation (MP_SFT_TURNS=one-by-one) stay together.

    Args:
        component: of conversations as JSON.
        split: shares as in MP_SPLIT; a third one is not read.
    Raises:
        DataError: a share would have no conversation.
    """
    assert isinstance(component.samples, SelectedRows)
    conversations = component.samples.conversations
    count = int(conversations.max(initial=-1)) + 1
    shares = np.array([float(share) for share in split.split(",")])
    ends = np.rint(shares.cumsum() / shares.sum() * count).astype(np.int64)
    if not 0 < ends[0] < ends[1]:
        raise DataError("sft-split-empty", name=component.name, count=count, split=split)
    order = np.random.Generator(np.random.PCG64(SEED)).permutation(count)
    parts = []
    for chosen in (order[: ends[0]], order[ends[0] : ends[1]]):
        numbers = np.flatnonzero(np.isin(conversations, chosen))
        samples = SomeSamples(whole=component.samples, numbers=numbers)
        parts.append(dataclasses.replace(component, samples=samples))
    return parts[0], parts[1]
