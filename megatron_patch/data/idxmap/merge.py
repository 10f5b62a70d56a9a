"""Shards of one corpus, tokenized on several machines, to one idxmap: byte for byte that of a single run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import read_json
from megatron_patch.data.idxmap.reader import BrokenIndex, Index
from megatron_patch.data.idxmap.writer import TOKEN_TYPES, flush_and_close, partial, publish, whole_index, write_index
from megatron_patch.data.jsonl import DataError

SHARED = ("kind", "files", "json_key", "tokenizer_sha256", "vocab_size", "eod", "special_tokens", "shards")
"""What all shards must agree on, of their PREFIX.build.json."""


def shard_prefix(prefix: Path, number: int, count: int) -> Path:
    """Of the `number`-th of `count` shards, from 1."""
    return Path(f"{prefix}-{number:05d}-of-{count:05d}")


def merge(prefix: Path, count: int) -> list[Message]:
    """Put PREFIX-00001-of-N to PREFIX-N-of-N together, and return the report. The shards stay.

    Raises:
        DataError: a shard is missing, torn, not what was written, or of another corpus or tokenizer.
    """
    shards = [shard_prefix(prefix, number, count) for number in range(1, count + 1)]
    builds = _checked(shards)
    indices = [_index(shard) for shard in shards]
    lengths = [index.lengths for index in indices]
    dtype = next(kind for kind in TOKEN_TYPES.values() if indices[0].dtype == kind)
    data_sum = hashlib.sha256()
    with partial(prefix, "bin").open("wb") as out:
        for shard, build in zip(shards, builds, strict=True):
            _copy(Path(f"{shard}.bin"), out, data_sum, build["bin_sha256"])
        flush_and_close(out)
    index_sum = write_index(partial(prefix, "idx"), np.concatenate(lengths), dtype)
    documents, tokens = (sum(build[name] for build in builds) for name in ("documents", "tokens"))
    made = {
        **{name: builds[0][name] for name in SHARED},
        "shard": None,
        "engine": ", ".join(sorted({build["engine"] for build in builds})),
        "documents": documents,
        "tokens": tokens,
        "counts": {name: sum(b["counts"].get(name, 0) for b in builds) for name in builds[0]["counts"]},
        "bin_sha256": data_sum.hexdigest(),
        "idx_sha256": index_sum,
    }
    partial(prefix, "build.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    publish(prefix, "build.json")
    done = Message("merge-written", prefix=prefix, shards=count)
    return [done, Message("merge-counts", documents=documents, tokens=tokens)]


def _checked(shards: list[Path]) -> list[dict[str, Any]]:
    """Their build records, all that is wrong in one go."""
    builds: list[dict[str, Any]] = []
    wrong: list[Message] = []
    for number, shard in enumerate(shards, start=1):
        try:
            build: dict[str, Any] = read_json(Path(f"{shard}.build.json"))
        except (OSError, ValueError) as error:
            wrong.append(Message("merge-absent", number=number, file=f"{shard}.build.json", error=error))
            continue
        builds.append(build)
        if different := [name for name in SHARED if build.get(name) != builds[0].get(name)]:
            wrong.append(Message("merge-differs", number=number, names=different))
    if wrong:
        raise DataError.of(wrong)
    return builds


def _index(shard: Path) -> Index:
    try:
        return whole_index(shard)
    except BrokenIndex as error:
        raise DataError.of(error.messages) from None
    except OSError as error:
        raise DataError("idxmap-unreadable", prefix=shard, error=error) from None


def _copy(source: Path, out: Any, whole: Any, expected: str) -> None:
    part = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(1 << 22):
            part.update(block)
            whole.update(block)
            out.write(block)
    if part.hexdigest() != expected:
        raise DataError("file-changed", file=source)
