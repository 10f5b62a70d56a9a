"""The tokenizer and the data on disk, looked at with the standard library alone: are they whole, and how large?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import is_whole
from megatron_patch.data.blend import parse_blend, words_of
from megatron_patch.data.columns import told
from megatron_patch.data.idxmap.reader import BrokenIndex, count  # standard library only
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sources import find_sources, is_source, visible
from megatron_patch.data.tokenizers.folder import count_ids_of  # standard library only
from megatron_patch.data.tokenizers.sentencepiece import (  # standard library only
    PiecesError,
    count_pieces,
    find_sentencepiece,
)
from megatron_patch.models.hf_config import LARGEST


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A Hugging Face tokenizer, or a SentencePiece model alone."""

    path: str
    """Its folder, absolute, as it was named: never the folder that a symbolic link of the hub's cache points to."""
    ids: int
    """Highest token id + 1."""
    model: str | None = None
    """The SentencePiece model's file, where there is no tokenizer.json."""


class UnusableTokenizer(UserError, ValueError):
    """A folder without a usable tokenizer."""


def read_tokenizer(place: str) -> Tokenizer:
    """Find the tokenizer in a folder, or take a `.model` file, and count its ids.

    Raises:
        UnusableTokenizer: no tokenizer there, several, or one that cannot be read.
    """
    path = Path(place)
    try:
        model = find_sentencepiece(path)
    except PiecesError as error:
        raise UnusableTokenizer.of(error.messages) from error
    file = model or path / "tokenizer.json"
    if not file.is_file():
        code = "tokenizer-absent" if path.is_dir() else "tokenizer-not-folder"
        raise UnusableTokenizer(code, place=place)
    try:
        ids = count_pieces(file.read_bytes()) if model else count_ids_of(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableTokenizer("tokenizer-unreadable", file=file, kind=type(error).__name__, error=error) from error
    return Tokenizer(path=str(file.parent.absolute()), ids=ids, model=str(model.absolute()) if model else None)


def vocab_size_of_config(config: Mapping[str, Any] | None) -> int | None:
    """`vocab_size` of a config.json, if there is one."""
    size = (config or {}).get("vocab_size")
    return size if is_whole(size, 1, LARGEST["vocab_size"]) else None


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One data set: an idxmap prefix, or a file or folder of conversations."""

    path: str
    """Absolute; without .bin and .idx."""
    weight: float | None
    """Share in the blend; None where the sizes decide."""
    tokens: int | None
    """None for raw JSON, which is not tokenized yet."""
    documents: int | None = None
    """What MP_SPLIT divides; None for raw JSON."""


class CorpusError(UserError, ValueError):
    """Data that cannot be trained on; the message says what was found and what was expected."""


def read_blend(text: str, *, raw: bool) -> tuple[DataSource, ...]:
    """Read DATASET_PATH: one path as it stands, several, or weights and paths.

    Args:
        text: one argument; a path with spaces is taken as it is where it exists, a folder is all prefixes in it.
        raw: files and folders of conversations instead of idxmap prefixes.
    Raises:
        CorpusError: with everything that is wrong.
    """
    exists = _file_or_folder if raw else _prefix_or_folder
    try:
        parts = parse_blend(words_of(text, exists), exists)
    except DataError as error:
        raise CorpusError.of(error.messages) from None
    pairs = [(part.weight, path) for part in parts for path in part.paths]
    try:
        if not raw and parts[0].weight is None:
            pairs = [(None, prefix) for _, path in pairs for prefix in _prefixes_in(path)]
    except DataError as error:
        raise CorpusError.of(error.messages) from None
    inspect = _inspect_raw if raw else _inspect_idxmap
    corpora: list[DataSource] = []
    wrong: list[Message] = []
    for weight, path in pairs:
        try:
            corpora.append(inspect(path, weight))
        except CorpusError as error:
            wrong += error.messages
    if wrong:
        raise CorpusError.of(wrong)
    return tuple(corpora)


def folders_of(text: str) -> list[str]:
    """The folders in a DATASET_PATH that read_blend took, each of which stands for all idxmaps in it."""
    parts = parse_blend(words_of(text, _prefix_or_folder), _prefix_or_folder)
    return [path for part in parts for path in part.paths if Path(path).is_dir() and not prefix_exists(path)]


def prefix_exists(prefix: str) -> bool:
    """Whether at least one half of an idxmap lies there."""
    return _is_file(f"{prefix}.bin") or _is_file(f"{prefix}.idx")


def _prefix_or_folder(path: str) -> bool:
    return prefix_exists(path) or Path(path).is_dir()


def _file_or_folder(path: str) -> bool:
    return Path(path).exists()


def _is_file(path: str) -> bool:
    return Path(path).is_file()


def _prefixes_in(word: str) -> list[str]:
    """All idxmaps in a folder and below it, by name; any other word as it is.

    Raises:
        CorpusError: a folder without one.
    """
    folder = Path(word)
    if not folder.is_dir() or prefix_exists(word):
        return [word]
    found = [str(path.with_suffix("")) for path in visible(folder, "*.idx")]
    if not found:
        raise CorpusError(_why_without_idx(folder), folder=word)
    return found


def _why_without_idx(folder: Path) -> str:
    if not any(folder.iterdir()):
        return "folder-empty"
    return "folder-of-json" if any(map(is_source, visible(folder))) else "folder-without-idx"


def _inspect_idxmap(prefix: str, weight: float | None) -> DataSource:
    """Check that both halves exist and belong together, and count the tokens."""
    for suffix in (".bin", ".idx"):
        if prefix.endswith(suffix) and prefix_exists(prefix.removesuffix(suffix)):
            raise CorpusError("prefix-with-suffix", prefix=prefix, suffix=suffix)
    if prefix != prefix.strip():
        raise CorpusError("prefix-white-space", prefix=repr(prefix))
    missing = [prefix + suffix for suffix in (".bin", ".idx") if not _is_file(prefix + suffix)]
    if missing:
        raise CorpusError(_why_absent(prefix), files=missing)
    try:
        tokens, documents = count(prefix)
    except BrokenIndex as error:
        raise CorpusError.of(error.messages) from None
    return DataSource(path=str(Path(prefix).absolute()), weight=weight, tokens=tokens, documents=documents)


def _why_absent(path: str) -> str:
    """The code of a path that does not lie there as what it is wanted for."""
    if path.startswith("~"):
        return "no-such-file-tilde"
    if Path(path).exists():
        return "no-such-file-but-json" if is_source(Path(path)) else "no-such-file"
    if prefix_exists(path):
        return "no-such-file-but-idxmap"
    return "no-such-file-commas" if "," in path else "no-such-file"


def _inspect_raw(path: str, weight: float | None) -> DataSource:
    from megatron_patch.data.first_rows import unusable  # and its libraries, which only conversations need

    if not Path(path).exists():
        raise CorpusError(_why_absent(path), files=path)
    try:
        known = find_sources([path])
    except DataError as error:
        raise CorpusError.of(error.messages) from None
    for file in known:
        _look_into(file)
    try:
        list(told(known))
        reason = unusable(known)
    except DataError as error:
        raise CorpusError.of(error.messages) from None
    if reason:
        raise CorpusError.of([reason])
    return DataSource(path=str(Path(path).absolute()), weight=weight, tokens=None)


def _look_into(path: Path) -> None:
    """Raises CorpusError for a file that is visibly another kind; compressed ones are left to their reader."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise CorpusError("file-empty", file=path)
    if path.suffix == ".parquet" and not start.startswith(b"PAR1"):
        raise CorpusError("not-parquet", file=path)
    if path.suffix in (".json", ".jsonl") and start[:1] not in (b"[", b"{"):
        raise CorpusError("not-json-rows", file=path)
