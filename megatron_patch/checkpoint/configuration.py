"""Where a Megatron checkpoint's architecture and tokenizer are written down. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.contents import own_config, read_config
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.strict_json import is_whole, read_json
from megatron_patch.data.tokenizers.sentencepiece import find_sentencepiece
from megatron_patch.models import ConfigError, differences, model_from_hf_config
from megatron_patch.runs.folder import PLAN


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A `config.json`, and the folder of the files that travel with it."""

    config: dict[str, Any]
    origin: str
    """Where the config comes from, for messages."""
    companions: Path
    """The folder of tokenizer, chat template and generation config."""


HF_PATH = "--hf-path"
"""What names the folder of config.json and tokenizer, for whoever types flags."""


def find_configuration(iteration: Path, explicit: Path | None = None, *, called: str = HF_PATH) -> Configuration:
    """The configuration of one iteration of a Megatron checkpoint.

    Looked for in the folder that is given; else beside the iteration, above it, and in the plan of the training
    run that wrote it.

    Args:
        explicit: the folder that was given for it.
        called: the flag or position that gives it, for messages.
    Raises:
        CheckpointError: there is none.
    """
    if explicit is not None:
        return Configuration(config=read_config(explicit), origin=str(explicit / "config.json"), companions=explicit)
    found = own_configuration(iteration, called)
    if found is None:
        raise CheckpointError("no-configuration", folder=iteration, plan=PLAN, called=called)
    return found


def own_configuration(iteration: Path, called: str = HF_PATH) -> Configuration | None:
    """What lies with the checkpoint itself, None if nothing does.

    Args:
        called: see `find_configuration`.

    Raises:
        CheckpointError: it is not a configuration, or the run's tokenizer is gone.
    """
    found = own_config(iteration)
    if found is None:
        return None
    if found.origin.name != PLAN:
        return Configuration(config=dict(found.config), origin=str(found.origin), companions=found.home)
    tokenizer = found.home
    if not tokenizer.is_dir():
        raise CheckpointError.at(found.origin, "run-tokenizer-gone", tokenizer=tokenizer, called=called)
    if (tokenizer / "config.json").is_file():  # the folder that the run started from: it knows more than the plan
        theirs = read_config(tokenizer)
        if _same_model(theirs, found.config):
            return Configuration(config=theirs, origin=str(tokenizer / "config.json"), companions=tokenizer)
    config = {**found.config, **special_token_ids(tokenizer)}
    return Configuration(config=config, origin=str(found.origin), companions=tokenizer)


def _same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    try:
        return not differences(*(model_from_hf_config(config, "", "") for config in (one, other)))
    except ConfigError:
        return False


def special_token_ids(tokenizer: Path) -> dict[str, int]:
    """`bos_token_id` and `eos_token_id` of a tokenizer folder, where it has them."""
    model = find_sentencepiece(tokenizer)
    if model is not None:
        from megatron_patch.data.tokenizers.sentencepiece_hf import special_ids

        return {f"{name}_token_id": number for name, number in special_ids(model).items() if name in ("bos", "eos")}
    try:
        names = read_json(tokenizer / "tokenizer_config.json")
        table = read_json(tokenizer / "tokenizer.json", large=True)
    except (OSError, ValueError):
        return {}
    if not isinstance(names, dict):
        return {}
    ids = _ids_of(table)
    found = {}
    for key in ("bos_token", "eos_token"):
        token = names.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        number = ids.get(token) if isinstance(token, str) else None
        if is_whole(number, 0, 1 << 31):
            found[f"{key}_id"] = number
    return found


def _ids_of(table: Any) -> dict[str, Any]:
    """The ids in a tokenizer.json; none where it is not one."""
    try:
        ids = {token["content"]: token["id"] for token in table.get("added_tokens") or []}
        vocab = table.get("model", {}).get("vocab", {})
    except (TypeError, KeyError, AttributeError):
        return {}
    return ids | (vocab if isinstance(vocab, dict) else {})
