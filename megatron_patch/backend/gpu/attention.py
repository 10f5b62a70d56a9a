"""Which attention kernel Transformer Engine really runs: the faster one, said once, and refused if it is the slow one
or a wrong one.

TE 2.20 chooses at the first forward pass, from data types, versions and environment. On Hopper it takes cuDNN before
FlashAttention 4, which is faster there, and it falls back to a kernel that keeps S x S scores without a word.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from megatron_patch.backend.gpu.libraries import cudnn_versions
from megatron_patch.backend.patching import BackendError, wrap
from megatron_patch.common.messages import Message, localized

LONG_SEQUENCE = 2048
"""Tokens from which on the unfused kernel is a mistake: 0.25 GiB of scores a layer for 32 heads, growing as S^2."""
UNFUSED = "unfused, which keeps S x S scores"
FLASH_4 = "flash-attn-4"
"""The package. requirements-gpu.txt has the version that was tried."""
HOPPER = (9, 0)
"""Compute capability of H100 and H200."""
ONLY_FLASH_4 = {"NVTE_FUSED_ATTN": "0", "NVTE_FLASH_ATTN_V2": "0", "NVTE_FLASH_ATTN_V3": "0"}
"""What TE reads whenever it chooses."""


def watch_attention(say: Callable[[str], None], *, seq_length: int, allow_unfused: bool, prefer_flash: bool) -> None:
    """Have FlashAttention 4 taken where it is faster, every choice said, and an unfused or wrong one end the run.

    Args:
        say: gets one line for each new choice.
        seq_length: of the whole sequence, over all context-parallel ranks.
        allow_unfused: `--allow-unfused-attention`.
        prefer_flash: `--attention-backend auto`; else the user chose.
    """
    from transformer_engine.pytorch.attention.dot_product_attention import utils

    said: set[str] = set()

    if prefer_flash and _is_hopper() and _installed(FLASH_4) and (wrong := why_not_flash_4()):
        say(localized("attention-flash-4-left-out", version=wrong))

    @wrap(utils, "get_attention_backend", why="TE 2.20 chooses the attention kernel without a word")
    def choose(original: Callable[..., Any], attention_params: Any) -> Any:
        choice = choose_kernel(original, attention_params, prefer_flash=prefer_flash)
        name = describe(choice)
        if name.startswith("FlashAttention 4") and (wrong := why_not_flash_4()):
            raise BackendError("attention-flash-4-wrong", version=wrong)
        if name not in said:
            said.add(name)
            say(localized("attention-kernel", name=name))
        if name == UNFUSED and seq_length >= LONG_SEQUENCE and not allow_unfused:
            raise _refusal(seq_length, _reasons(utils, original, attention_params))
        return choice


def choose_kernel(original: Callable[..., Any], attention_params: Any, *, prefer_flash: bool) -> Any:
    """FlashAttention 4 where it is preferred and can do it, else what Transformer Engine takes."""
    if prefer_flash and is_faster_with_flash(attention_params):
        with _set(ONLY_FLASH_4):
            choice = original(attention_params)
        if choice[0]:
            return choice
    return original(attention_params)


def is_faster_with_flash(attention_params: Any) -> bool:
    """Whether this is attention for which FlashAttention 4 was measured to be faster than cuDNN 9.19, and is there.

    On Hopper (H200s; an H100 has not run it), in 16 bits, with heads of 128, where no order of sums is asked for. Not
    under context parallelism and for other heads, which were not measured, and not for batches of several rows that are
    not packed: these lie the wrong way for it, and the copies that Transformer Engine makes take 65 MB a layer (0.5 %
    faster all the same). The prediction of a step goes by the same rule: `fits_flash` in launch/step_time.py.
    """
    asked = attention_params
    alone = asked.batch_size == 1 or "thd" in asked.qkv_layout
    measured = alone and asked.head_dim_qk == asked.head_dim_v == 128 and not asked.context_parallel
    plain = not (asked.deterministic or asked.pad_between_seqs) and asked.window_size in (None, (-1, 0), (-1, -1))
    if not (_is_hopper() and measured and plain):
        return False
    return _installed(FLASH_4) is not None and why_not_flash_4() is None


def _is_hopper() -> bool:
    import torch

    return torch.cuda.get_device_capability() == HOPPER


@functools.cache
def why_not_flash_4() -> str | None:
    """The version of flash-attn-4 if it would compute something else than causal attention, or cannot be imported; None
    if it is right.

    Transformer Engine 2.20 passes causal attention on as the window (-1, 0). From 4.0.0b30 on that is a window in which
    no position sees any: no error, other numbers.
    """
    try:
        resolve = importlib.import_module("flash_attn.cute.interface")._resolve_causal_local_window
        right = tuple(resolve(True, -1, 0))[:2] == (True, False)
    except (ImportError, AttributeError, TypeError):
        right = False
    return None if right else _installed(FLASH_4) or "?"


@functools.cache
def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables of this process, for a moment."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
