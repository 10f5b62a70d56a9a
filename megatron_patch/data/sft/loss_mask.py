"""Which tokens of a conversation are trained: the loss mask."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from megatron_patch.data.sft.formats import Conversation

Tokens = npt.NDArray[np.int32]
Turns = npt.NDArray[np.uint8]
PROMPT, EARLIER_TURN, LAST_TURN = 0, 1, 2
"""The turn a token belongs to: none of the assistant's, one of its earlier ones, its last."""
LOSSES = ("assistant", "last", "all")


def trained(turns: Turns, loss: str) -> npt.NDArray[np.bool_]:
    """Which tokens are learned: as targets, so never the first of a sample.

    Args:
        turns: [n], of `Encoder.encode`.
        loss: `assistant` (every turn of it), `last` (its last turn only), `all` (prompts too).
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; valid: {', '.join(LOSSES)}")
    mask = turns >= {"all": PROMPT, "assistant": EARLIER_TURN, "last": LAST_TURN}[loss]
    mask[:1] = False
    return mask


def one_by_one(conversation: Conversation) -> list[Conversation]:
    """A conversation for each trained turn, which is its last and alone is trained: earlier reasoning is then there."""
    assistants = [number for number, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    return [
        dataclasses.replace(
            conversation,
            messages=conversation.messages[: number + 1],
            context=frozenset(other for other in assistants if other < number),
        )
        for number in assistants
        if number not in conversation.context
    ]
