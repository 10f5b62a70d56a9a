"""The three example corpora of the NeMo tutorials, by `datasets`: from the hub, or with --input from a local copy.

wikinews   news in traditional Chinese, for pretraining
wiki       the Wikipedia in classical Chinese, for pretraining
alpaca     instructions in traditional Chinese, for fine-tuning: training, validation and test
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError, print_error
from megatron_patch.common.files import atomic_file
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.network import require_hub

HubRow = Mapping[str, Any]
SHARES = (("training", 0.98), ("validation", 0.01), ("test", 0.01))
"""Of the instructions; the rest of rounding goes to the last."""
WIKI_DATE = "20231101"
WIKINEWS = "wikinews-zhtw.jsonl"
WIKI = f"zh_classicalwiki-{WIKI_DATE}-pages-articles-multistream.jsonl"
ALPACA = "gpt4-chinese-zhtw.jsonl"


@dataclass(frozen=True, kw_only=True)
class ExampleCorpus:
    """One corpus."""

    repository: str
    """On the hub."""
    config: str | None
    columns: tuple[str, ...]
    """Of a row; other copies than the hub's must have them too."""
    folder: str
    """Where it goes, under the working directory: as the tutorials say."""
    files: tuple[str, ...]
    """What is written there."""
    write: Callable[[Iterable[HubRow], Path], list[Message]]
    """Writes the files and returns a report."""


class DownloadError(UserError, ValueError):
    """A corpus that cannot be had, or would overwrite one."""


def load(example: ExampleCorpus, source: Path | None, cache: Path) -> Iterable[HubRow]:
    """The rows of the only split.

    Args:
        source: a local copy: a file, or a folder of files, of JSON Lines, JSON or Parquet; None asks the hub.
        cache: where `datasets` may keep its own copy of local files.
    Raises:
        UserError: not reachable, not readable, or without the columns.
    """
    if source is None:
        require_hub(example.repository, os.environ)
    import datasets

    datasets.disable_progress_bars()
    try:
        if source is None:
            rows = datasets.load_dataset(example.repository, example.config, split="train")
        else:
            kind, files = _local(source)
            rows = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=str(cache))
    except UserError:
        raise
    except Exception as error:  # network, hub and parsers raise what they like
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if source is None:
            raise DownloadError("download-hub", repository=example.repository, error=reason) from None
        raise DownloadError("download-unreadable", source=source, error=reason) from None
    if missing := [column for column in example.columns if column not in rows.column_names]:
        raise DownloadError("download-columns", missing=missing, found=rows.column_names)
    found: Iterable[HubRow] = rows
    return found


def _local(source: Path) -> tuple[str, list[str]]:
    kinds = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
    inside = sorted(source.rglob("*")) if source.is_dir() else [source]
    files = [path for path in inside if path.is_file() and path.suffix in kinds]
    if not source.exists() or not files:
        raise DownloadError("download-no-file", source=source, suffixes=tuple(kinds))
    if len(found := {kinds[path.suffix] for path in files}) > 1:
        raise DownloadError("download-several-kinds", source=source)
    return found.pop(), [str(path) for path in files]


def _write_lines(path: Path, rows: Iterable[HubRow]) -> Message:
    """JSON Lines, whole or not at all; returns a line for the report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with atomic_file(path) as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007
            file.write((json.dumps(dict(row), ensure_ascii=False, default=str) + "\n").encode())
    return Message("download-written", file=path, rows=count, bytes=path.stat().st_size)


def _wikinews(rows: Iterable[HubRow], folder: Path) -> list[Message]:
    return [_write_lines(folder / WIKINEWS, rows)]


def _wiki(rows: Iterable[HubRow], folder: Path) -> list[Message]:
    return [_write_lines(folder / WIKI, rows)]


def _alpaca(rows: Iterable[HubRow], folder: Path) -> list[Message]:
    """`input` and `output`, as the tutorial makes them; shuffled by a fixed seed, so that the split stays."""
    pairs = []
    for row in rows:
        parts = (str(row["instruction"] or "").strip(), str(row.get("input") or "").strip())
        pairs.append({"input": "\n".join(parts).strip(), "output": str(row["output"] or "").strip()})
    lines = [_write_lines(folder / ALPACA, pairs)]
    random.Random(0).shuffle(pairs)
    start = 0
    for name, share in SHARES:
        end = len(pairs) if name == SHARES[-1][0] else start + int(len(pairs) * share)
        lines.append(_write_lines(folder / f"{name}.jsonl", pairs[start:end]))
        start = end
    return lines


EXAMPLES = {
    "wikinews": ExampleCorpus(
        repository="erhwenkuo/wikinews-zhtw",
        config=None,
        columns=("text",),
        folder="data/custom_dataset/json",
        files=(WIKINEWS,),
        write=_wikinews,
    ),
    "wiki": ExampleCorpus(
        repository="wikimedia/wikipedia",
        config=f"{WIKI_DATE}.zh-classical",
        columns=("text",),
        folder="wiki_data_zh-classical",
        files=(WIKI,),
        write=_wiki,
    ),
    "alpaca": ExampleCorpus(
        repository="erhwenkuo/alpaca-data-gpt4-chinese-zhtw",
        config=None,
        columns=("instruction", "output"),
        folder="data/alpaca",
        files=(ALPACA, *(f"{name}.jsonl" for name, _ in SHARES)),
        write=_alpaca,
    ),
}


def main(name: str, argv: list[str]) -> int:
    """The command for one of EXAMPLES; 0 done, 1 not readable, or files are there already."""
    example = EXAMPLES[name]
    parser = ArgumentParser(description=localized("download-about", repository=example.repository))
    parser.add_argument("--output", type=Path, default=Path(example.folder), help=localized("download-help-output"))
    parser.add_argument("--input", type=Path, help=localized("download-help-input"))
    parser.add_argument("--overwrite", action="store_true", help=localized("download-help-overwrite"))
    args = parser.parse_args(argv)
    there = [str(args.output / file) for file in example.files if (args.output / file).exists()]
    try:
        if there and not args.overwrite:
            raise DownloadError("download-there", files=there)
        with tempfile.TemporaryDirectory(prefix="datasets-") as cache:
            report = example.write(load(example, args.input, Path(cache)), args.output)
        print(*map(Message.localized, report), sep="\n")
    except UserError as error:
        print_error(error, os.environ)
        return 1
    except OSError as error:
        print_error(DownloadError("folder-unwritable", folder=args.output, error=error).about("--output"), os.environ)
        return 1
    return 0
