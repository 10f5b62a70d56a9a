"""Which attention kernel Transformer Engine really runs: said once, and refused if it is the slow one.

TE 2.20 chooses at the first forward pass, from data types, versions and environment, and falls back to a kernel that
keeps S x S scores without a word.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from megatron_patch.backend.gpu.libraries import cudnn_versions
from megatron_patch.backend.patching import BackendError, wrap
from megatron_patch.common.messages import Message, localized

LONG_SEQUENCE = 2048
"""Tokens from which on the unfused kernel is a mistake: 0.25 GiB of scores a layer for 32 heads, growing as S^2."""
UNFUSED = "unfused, which keeps S x S scores"


def watch_attention(say: Callable[[str], None], *, seq_length: int, allow_unfused: bool) -> None:
    """Have every choice of Transformer Engine's said, and an unfused one at a long sequence end the run.

    Args:
        say: gets one line for each new choice.
        seq_length: of the whole sequence, over all context-parallel ranks.
        allow_unfused: `--allow-unfused-attention`.
    """
    from transformer_engine.pytorch.attention.dot_product_attention import utils

    said: set[str] = set()

    @wrap(utils, "get_attention_backend", why="TE 2.20 chooses the attention kernel without a word")
    def choose(original: Callable[..., Any], attention_params: Any) -> Any:
        choice = original(attention_params)
        name = describe(choice)
        if name not in said:
            said.add(name)
            say(localized("attention-kernel", name=name))
        if name == UNFUSED and seq_length >= LONG_SEQUENCE and not allow_unfused:
            raise _refusal(seq_length, _reasons(utils, original, attention_params))
        return choice


def describe(choice: Any) -> str:
    """The kernel, from what `get_attention_backend` returns.

    Returns:
        `FlashAttention 3.0.0`, `cuDNN 9.19.0 fused (sub-backend 1)`, `unfused ...` or `none`.
    """
    flash, flash_version, fused, sub_backend, unfused = choice[:5]
    if flash:
        return f"FlashAttention {flash_version}"
    if fused:
        return f"cuDNN {cudnn_versions()[1]} fused (sub-backend {int(sub_backend)})"
    return UNFUSED if unfused else "none"


def _refusal(seq_length: int, reasons: list[str]) -> BackendError:
    torchs, engines = cudnn_versions()
    lines: list[str | Message] = [f"  {reason}" for reason in reasons]
    if torchs != engines:
        lines.append(Message("attention-cudnn", torch=torchs, engine=engines))
    return BackendError("attention-unfused", tokens=seq_length, reasons=lines)


def _reasons(utils: Any, choose: Callable[..., Any], attention_params: Any) -> list[str]:
    """Ask again, with Transformer Engine's own log of what it rules out and why."""
    with _recorded(utils) as messages:
        choose(attention_params)
    return [message for message in messages if message.startswith("Disabling Fused")] or messages[-3:]


@contextmanager
def _recorded(utils: Any) -> Any:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger, level = logging.getLogger("DotProductAttention"), utils.AttentionLogging._log_level
    logger.addHandler(handler)
    utils.AttentionLogging._log_level = logging.DEBUG
    try:
        yield messages
    finally:
        utils.AttentionLogging._log_level = level
        logger.removeHandler(handler)
