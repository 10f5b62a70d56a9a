"""Data that were exchanged between two starts of a run are noticed, by their content: times say nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from megatron_patch.common.files import write_json
from megatron_patch.common.strict_json import read_json
from megatron_patch.data.columns import columns_of
from megatron_patch.data.content import file_identity, idxmap_identity
from megatron_patch.data.sources import find_sources
from megatron_patch.runs.folder import REPORTS
from megatron_patch.trainer.errors import DatasetError


def identities(paths: Iterable[str], *, raw: bool) -> dict[str, str]:
    """What each dataset is.

    Args:
        paths: prefixes of idxmaps, or files and folders of conversations.
    """
    return {path: _raw_identity(path) if raw else idxmap_identity(path) for path in paths}


def _raw_identity(path: str) -> str:
    digest = hashlib.sha256()
    for file in find_sources([path]):
        digest.update(file_identity(file))
        if columns := columns_of(file):
            digest.update(repr(columns).encode())
    return digest.hexdigest()


def remember(output: Path, found: Mapping[str, str], *, resumed: bool) -> None:
    """Keep `OUTPUT/data/content.json`, and compare with it.

    Args:
        found: of `identities`.
        resumed: the run goes on from a checkpoint of its own, which counts positions in these data.
    Raises:
        DatasetError: other data lie where those of the last start lay.
    """
    path = output / REPORTS / "content.json"
    before = _read(path)
    changed = [name for name, identity in found.items() if before.get(name, identity) != identity]
    if resumed and changed:
        raise DatasetError("data-exchanged", names=changed, path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**before, **found})


def _read(path: Path) -> dict[str, str]:
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
