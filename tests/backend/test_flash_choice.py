"""When FlashAttention 4 is taken, and that a version which reads causal attention otherwise never is.

Transformer Engine needs a GPU: `engine` chooses as its get_attention_backend does (2.20), from the same variables.
tests/gpu/test_flash.py asks the real one.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_patch.backend.gpu import attention
from megatron_patch.backend.gpu.attention import choose_kernel, describe, why_not_flash_4

UNTIL_B29 = """
def _resolve_causal_local_window(causal, window_size_left, window_size_right, mask_mod=None):
    if causal:
        window_size_right = 0
    if window_size_left is not None and window_size_right is not None and window_size_left + window_size_right < 0:
        window_size_left = window_size_right = None
    if window_size_left is not None or window_size_right is not None:
        if window_size_left is None and window_size_right == 0:
            return True, False, None, None
        return False, True, window_size_left, window_size_right
    return causal, False, window_size_left, window_size_right
"""
"""flash_attn/cute/interface.py of 4.0.0b11 to b29, in short."""
FROM_B30 = UNTIL_B29.replace("window_size_left + window_size_right < 0", "window_size_left < 0 > window_size_right")


@dataclass(frozen=True)
class Asked:
    """What Transformer Engine's AttentionParams say of a micro batch."""

    batch_size: int = 1
    qkv_layout: str = "sbhd_sbhd_sbhd"
    head_dim_qk: int = 128
    head_dim_v: int = 128
    context_parallel: bool = False
    deterministic: bool = False
    pad_between_seqs: bool = False
    window_size: tuple[int, int] | None = (-1, 0)


def engine(asked: Asked) -> tuple[Any, ...]:
    """FlashAttention 4 if cuDNN is off, as on Hopper; both are there."""
    fused = os.environ.get("NVTE_FUSED_ATTN", "1") == "1"
    flash = not fused and os.environ.get("NVTE_FLASH_ATTN_V4", "1") == "1"
    return flash, "4.0.0b29" if flash else None, fused, 1, True


def chosen(asked: Asked, *, prefer_flash: bool = True) -> str:
    return describe(choose_kernel(engine, asked, prefer_flash=prefer_flash)).split()[0]


def forget() -> None:
    """What was looked up once for each process."""
    attention.why_not_flash_4.cache_clear()
    attention._installed.cache_clear()


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A machine with a Hopper GPU and flash-attn-4; give it the source of its interface."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("megatron_patch.backend.gpu.attention.cudnn_versions", lambda: ("9.19.0", "9.19.0"))
    monkeypatch.delenv("NVTE_FUSED_ATTN", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    def install(version: str, source: str) -> None:
        forget()
        package = tmp_path / "flash_attn" / "cute"
        package.mkdir(parents=True)
        (tmp_path / "flash_attn" / "__init__.py").touch()
        (package / "__init__.py").touch()
        (package / "interface.py").write_text(source)
        facts = tmp_path / f"flash_attn_4-{version}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flash-attn-4\nVersion: {version}\n")

    yield install
    forget()
    for name in ("flash_attn", "flash_attn.cute", "flash_attn.cute.interface"):
        sys.modules.pop(name, None)


def test_it_is_taken_where_it_was_measured(hopper: Any) -> None:
    hopper("4.0.0b29", UNTIL_B29)
    assert chosen(Asked()) == "FlashAttention"
    assert chosen(Asked(batch_size=4, qkv_layout="thd_thd_thd")) == "FlashAttention"
    assert "NVTE_FUSED_ATTN" not in os.environ


@pytest.mark.parametrize(
    "asked",
    [
        Asked(batch_size=2),
        Asked(head_dim_qk=64, head_dim_v=64),
        Asked(context_parallel=True),
        Asked(deterministic=True),
        Asked(qkv_layout="thd_thd_thd", pad_between_seqs=True),
        Asked(window_size=(4095, 0)),
    ],
)
def test_elsewhere_cudnn_stays(hopper: Any, asked: Asked) -> None:
    hopper("4.0.0b29", UNTIL_B29)
    assert chosen(asked) == "cuDNN"


def test_what_the_user_chose_stays(hopper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--attention-backend fused`, and Transformer Engine's own variable."""
    hopper("4.0.0b29", UNTIL_B29)
    assert chosen(Asked(), prefer_flash=False) == "cuDNN"
    monkeypatch.setenv("NVTE_FLASH_ATTN_V4", "0")
    assert chosen(Asked()) == "cuDNN"


def test_other_gpus_and_machines_without_it(hopper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(Asked()) == "cuDNN"  # not installed
    hopper("4.0.0b29", UNTIL_B29)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (10, 0))
    assert chosen(Asked()) == "cuDNN"


def test_a_version_that_would_see_nothing_is_never_taken(hopper: Any) -> None:
    """From 4.0.0b30 on, the window (-1, 0) that Transformer Engine passes is one in which no position sees any."""
    hopper("4.0.0b36", FROM_B30)
    assert why_not_flash_4() == "4.0.0b36"
    assert chosen(Asked()) == "cuDNN"


def test_the_pinned_version_is_one_of_the_right_ones() -> None:
    root = Path(__file__).resolve().parents[2]
    (line,) = [
        one for one in (root / "requirements-gpu.txt").read_text().splitlines() if one.startswith("flash-attn-4")
    ]
    assert 11 <= int(line.rpartition("b")[2]) <= 29
