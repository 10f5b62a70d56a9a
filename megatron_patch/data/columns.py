"""Columns by other names: what LLaMA-Factory's dataset_info.json says of the files beside it.

    {"mine": {"file_name": "mine.json", "columns": {"prompt": "problem", "response": "solution"}}}

An entry that names its columns is followed: they are read under the names that formats know, and no other column is.
Source: `DatasetAttr.join` and `converter.py` of LLaMA-Factory 0.9.4. Standard library only: the launcher asks too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import JsonError, read_object
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.formats.common import LABELS, MEDIA, WEIGHT, MalformedRow, turns_of

if TYPE_CHECKING:
    from megatron_patch.data.rows import Row  # and its libraries, which the launcher does without

NAME = "dataset_info.json"
KINDS = ("alpaca", "sharegpt", "openai")
BESIDE = {"system": "system", "tools": "tools", "images": "images", "videos": "videos", "audios": "audios"}
COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output", "history": "history", **BESIDE},
    "sharegpt": {"messages": "conversations", **BESIDE},
    "openai": {"messages": "messages", **BESIDE},
}
"""Of each kind: its columns as dataset_info.json calls them, and as the formats here do."""
NEEDED = ("prompt", "response", "messages")
TURN: dict[str, dict[str, str]] = {
    "alpaca": {},
    "sharegpt": {"role_tag": "from", "content_tag": "value"},
    "openai": {"role_tag": "role", "content_tag": "content"},
}
SPEAKERS = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
ENTRY = ("file_name", "formatting", "columns", "tags", "folder", "hf_hub_url", "ms_hub_url", "om_hub_url")
"""Keys of an entry that are read, or say only from where the file can be had."""
PLAIN = {"split": "train", "ranking": False}
"""Further ones, that can only be as they are by default."""
MARKS = (*MEDIA, *LABELS, WEIGHT)
"""Columns that keep their names: why a row cannot be trained."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names in a file's rows, and what stands for them here."""

    entry: str
    """Of dataset_info.json."""
    row: dict[str, str] = field(default_factory=dict)
    """Empty: all as they are."""
    needed: tuple[str, ...] = ()
    """Of the row's names: those that every row has."""
    turn: dict[str, str] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)

    def read(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The record by the names that formats know, and its keys that are not read.

        Raises:
            MalformedRow: it lacks a column.
        """
        if missing := [name for name in self.needed if name not in record]:
            raise MalformedRow("row-no-column", columns=missing, file=NAME, entry=self.entry, keys=list(record)[:20])
        if not self.row:
            return self._with_turns(dict(record)), []
        found = {ours: record[name] for name, ours in self.row.items() if name in record}
        found |= {key: record[key] for key in MARKS if key in record and key not in self.row}
        unread = [str(key) for key in record if key not in self.row and key not in MARKS]
        return self._with_turns(found), unread

    def _with_turns(self, record: dict[str, Any]) -> dict[str, Any]:
        for key in ("conversations", "messages"):
            if (turns := turns_of(record, key)) is not None:
                record[key] = list(map(self._turn, turns))
        return record

    def _turn(self, turn: Any) -> Any:
        if not isinstance(turn, Mapping):
            return turn
        named = {ours: turn[name] for name, ours in self.turn.items() if name in turn}
        named = {key: value for key, value in turn.items() if key not in self.turn and key not in named} | named
        for key in ("from", "role"):
            if isinstance(speaker := named.get(key), str) and speaker in self.speakers:
                named[key] = self.speakers[speaker]
        return named


def by_columns(row: Row, columns: Columns | None) -> tuple[Row, list[str]]:
    """The row under the names that formats know, and its keys that are then not read.

    Raises:
        MalformedRow: it lacks a column that dataset_info.json names.
    """
    if columns is None or not isinstance(row.record, Mapping):
        return row, []
    record, unread = columns.read(row.record)
    return row._replace(record=record), unread


def columns_of(file: Path) -> Columns | None:
    """What a dataset_info.json beside a file, or in the folder above, says of its columns; None where it says nothing.

    Raises:
        DataError: it says what cannot be followed here.
    """
    path = _plain(file)
    for folder in (path.parent, path.parent.parent):
        entries = {name: entry for name, entry in _entries(folder / NAME).items() if _is_of(entry, folder, path)}
        found = {name: _columns(folder / NAME, name, entry) for name, entry in entries.items()}
        if len({(str(one.row), str(one.turn), str(one.speakers)) for one in found.values()}) > 1:
            raise DataError.at(folder / NAME, "info-several", entries=list(found), file=file)
        if found:
            only = next(iter(found.values()))
            return only if only.row or only.turn or only.speakers else None
    return None


def told(files: Iterable[Path]) -> Iterator[Message]:
    """Which files are read by an entry, one message each.

    Raises:
        DataError: see `columns_of`.
    """
    for file in files:
        if columns := columns_of(file):
            yield Message("columns-by-entry", file=file, entry=columns.entry, info=NAME)


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """Those of LLaMA-Factory; `datasets` writes another file under this name."""
    if not path.is_file():
        return {}
    try:
        found = read_object(path)
    except (OSError, JsonError) as error:
        raise DataError.at(path, "cannot-be-read", error=error) from None
    return {name: entry for name, entry in found.items() if isinstance(entry, dict) and "file_name" in entry}


def _is_of(entry: dict[str, Any], folder: Path, file: Path) -> bool:
    """Whether an entry's file_name is this file, or a folder in which it lies."""
    if not isinstance(entry["file_name"], str):
        return False
    between = file.parents[: len(file.parents) - len(folder.parents) - 1]
    return _plain(folder / entry["file_name"]) in (file, *between)


def _plain(path: Path) -> Path:
    """Absolute, without `..`, links as they are."""
    return Path(os.path.normpath(path.absolute()))


def _columns(info: Path, name: str, entry: dict[str, Any]) -> Columns:
    """
    Raises:
        DataError: all that cannot be followed.
    """
    if problems := list(_problems(entry)):
        raise DataError.of([Message("info-entry", info=info, entry=name, problem=problem) for problem in problems])
    kind, columns, tags = entry.get("formatting", KINDS[0]), entry.get("columns") or {}, entry.get("tags") or {}
    return Columns(
        entry=name,
        row={theirs: COLUMNS[kind][key] for key, theirs in columns.items()},
        needed=tuple(theirs for key, theirs in columns.items() if key in NEEDED),
        turn={tags[tag]: ours for tag, ours in TURN[kind].items() if tag in tags},
        speakers={tags[tag]: ours for tag, ours in SPEAKERS.items() if tag in tags},
    )


def _problems(entry: dict[str, Any]) -> Iterator[Message]:
    for key, value in PLAIN.items():
        if entry.get(key, value) != value:
            yield Message("info-value", name=key, found=repr(entry[key]), valid=[repr(value)])
    if strange := [key for key in entry if key not in ENTRY and key not in PLAIN]:
        yield Message("info-unread", keys=strange)
    kind = entry.get("formatting", KINDS[0])
    if kind not in KINDS:
        yield Message("info-value", name="formatting", found=repr(kind), valid=KINDS)
        return
    for part, known in (("columns", COLUMNS[kind]), ("tags", TURN[kind] | SPEAKERS)):
        said = entry.get(part) or {}
        if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
            yield Message("info-names", name=part)
        elif strange := [f"{part}.{key}" for key in said if key not in known]:
            yield Message("info-unread", keys=strange)
