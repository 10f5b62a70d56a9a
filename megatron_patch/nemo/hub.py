"""A model's name on the Hugging Face hub, or a folder, and the folder that its tokenizer lies in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.common.network import require_hub

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
)
"""What is downloaded: the tokenizer and the configuration, never weights."""


class HubError(UserError):
    """No tokenizer under that name; the message says where it was looked for."""


@dataclass(frozen=True, kw_only=True)
class FoundTokenizer:
    """A folder with a tokenizer."""

    folder: str
    how: Message | None
    """Where it came from, for a note; None if the name was the folder."""


def find_model(name: str, checkpoint: str | None, environ: Mapping[str, str], *, download: bool) -> FoundTokenizer:
    """Look for the tokenizer of a model: a folder of that name, the checkpoint, the hub's cache, the hub.

    Args:
        name: `--hf_model_id`.
        checkpoint: `--nemo_model`, whose folder our converter has given a tokenizer.
        environ: for HF_TOKEN and the cache's place.
        download: ask the hub if nothing is here.
    Raises:
        UserError: it is nowhere, or the hub cannot be reached.
    """
    if has_tokenizer(Path(name)):
        return FoundTokenizer(folder=name, how=None)
    short = name.rsplit("/", 1)[-1]
    if has_tokenizer(Path(short)):
        return FoundTokenizer(folder=short, how=Message("hub-folder-here", folder=short, name=name))
    if checkpoint is not None and has_tokenizer(Path(checkpoint)):
        return FoundTokenizer(folder=checkpoint, how=Message("hub-checkpoint", folder=checkpoint, name=name))
    cached = cached_snapshot(name, environ)
    if cached is not None:
        return FoundTokenizer(folder=str(cached), how=Message("hub-cache", name=name, folder=str(cached)))
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise HubError("hub-nowhere")
    if not download:
        raise HubError("hub-not-cached")
    return _download(name, environ)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds one of the two kinds."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def cached_snapshot(name: str, environ: Mapping[str, str]) -> Path | None:
    """The snapshot of `main` in the hub's cache, if it has a tokenizer. Source: huggingface_hub's file layout."""
    home = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}/huggingface"
    repository = Path(environ.get("HF_HUB_CACHE") or f"{home}/hub") / f"models--{name.replace('/', '--')}"
    try:
        revision = (repository / "refs" / "main").read_text().strip()
    except OSError:
        return None
    snapshot = repository / "snapshots" / revision
    return snapshot if has_tokenizer(snapshot) else None


def _download(name: str, environ: Mapping[str, str]) -> FoundTokenizer:
    require_hub(name, environ)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, allow_patterns=list(FILES), token=environ.get("HF_TOKEN") or None)
    except Exception as error:  # two dozen types, all meaning that the files are not here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HubError("hub-fails", kind=type(error).__name__, error=reason) from None
    if not has_tokenizer(Path(folder)):
        raise HubError("hub-without-tokenizer", folder=folder)
    return FoundTokenizer(folder=folder, how=Message("hub-downloaded", name=name, folder=folder))
