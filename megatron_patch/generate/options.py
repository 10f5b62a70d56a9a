"""The flags that chat and generate share. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.hf_model import CACHE
from megatron_patch.common.messages import Message, at, localized
from megatron_patch.common.values import Kind, choice, real, whole
from megatron_patch.generate.errors import GenerateError

DTYPES = ("auto", "float32", "bfloat16", "float16")
VALUES: dict[str, tuple[Kind, str | None, str]] = {
    "max-new-tokens": (whole(1), "256", "generate-help-tokens"),
    "temperature": (real(), None, "generate-help-temperature"),
    "top-k": (whole(1), None, "generate-help-top-k"),
    "top-p": (
        real(0.0, 1.0, above=True),
        None,
        "generate-help-top-p",
    ),
    "seed": (whole(0, 2**63 - 1), "1234", "generate-help-seed"),
    "dtype": (choice(*DTYPES), "auto", "help-dtype"),
}
"""Flags with a checked value: how it is read, default, meaning. None: the model's own generation_config.json."""


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Which model, and how it writes."""

    hf_path: Path | None
    """Configuration and tokenizer of a Megatron checkpoint, the base of an adapter; None: as is written down."""
    cache: Path
    device: str | None
    dtype: str
    sampling: Mapping[str, Any]
    """Fields of Sampling, which needs torch."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and the flags to a command line."""
    add = parser.add_argument
    what = localized("generate-help-model")
    add("model", type=Path, metavar="MODEL", help=what)
    add("--hf-path", type=Path, metavar="DIR", help=localized("generate-help-hf-path"))
    add("--cache", type=Path, default=CACHE, metavar="DIR", help=localized("generate-help-cache", folder=CACHE.name))
    add("--device", metavar="DEVICE", help=localized("generate-help-device"))
    for name, (kind, default, meaning) in VALUES.items():
        usual = f" [{default}]" if default else Message("generate-help-own")
        shown = localized("help-value", meaning=Message(meaning), valid=kind.expects, default=usual)
        add(f"--{name}", default=default, metavar="X", help=shown.replace("%", "%%"))


def read_flags(given: Mapping[str, Any]) -> ModelFlags:
    """Check what was typed.

    Raises:
        GenerateError: with all that is wrong.
    """
    values: dict[str, Any] = {}
    problems: list[Message] = []
    for name, (kind, _, _) in VALUES.items():
        typed = given[name.replace("-", "_")]
        try:
            values[name.replace("-", "_")] = None if typed is None else kind.parse(typed)
        except ValueError as error:
            problems.append(at(f"--{name}", "usage-value", typed=typed, why=error, valid=kind.expects))
    folders = {"MODEL": given["model"], "--hf-path": given["hf_path"], "--before": given.get("before")}
    for name, path in folders.items():
        if path and not path.is_dir():
            problems.append(at(name, "usage-no-folder", path=path))
    if problems:
        raise GenerateError.of(problems)
    dtype = values.pop("dtype")
    return ModelFlags(
        hf_path=given["hf_path"], cache=given["cache"], device=given["device"], dtype=dtype, sampling=values
    )
