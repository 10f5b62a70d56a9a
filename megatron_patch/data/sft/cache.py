"""The tokenized cache: each row is tokenized once per dataset and machine, then read memory-mapped by every rank.

    sft-KEY/  tokens.bin   int32[tokens]
              turns.bin    uint8[tokens]     the turn of each token: see `loss_mask.PROMPT`
              offsets.bin  int64[rows + 1]   first token of each row, and the end
              origins.bin  int64[rows, 3]    file, line and row of each row: see `rows.Row`
              meta.json    report, sizes and SHA-256 of the four; written last

KEY is made of the content of the data, the tokenizer, the template and the code that turns one into the other, so
changed data has another cache. Neither sequence length nor loss are in it: they only select. A cache that is not
whole, or not what its checksums say, is built again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tokenizers

from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.messages import Message, as_json, from_json
from megatron_patch.common.strict_json import read_json
from megatron_patch.data.columns import columns_of
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft import tokenize
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer, load_chat_tokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.loss_mask import Tokens, Turns
from megatron_patch.data.sft.rendering.template import ChatTemplate, TemplateError
from megatron_patch.data.sft.report import DataReport, FileReport
from megatron_patch.data.sft.tokenize import AS_IT_COMES
from megatron_patch.data.sources import find_sources
from megatron_patch.data.tokenizers.engines import EngineError

HERE = Path(__file__).parent
CODE = [HERE / f"{name}.py" for name in ("encoder", "loss_mask", "report", "tokenize")]
CODE += [HERE.parent / f"{name}.py" for name in ("arrow", "columns", "jsonl", "parquet", "rows")]
CODE += sorted([*(HERE / "formats").glob("*.py"), *(HERE / "rendering").glob("*.py")])
"""What turns rows into tokens: a change of any of it makes other caches."""
DTYPES: dict[str, type[np.generic]] = {
    "tokens": np.int32,
    "turns": np.uint8,
    "offsets": np.int64,
    "origins": np.int64,
}
Say = Callable[[Message], None]
Advance = Callable[[int, int], None]
"""Called with bytes and rows that have been worked through since the last call."""
DATA_ERROR, TEMPLATE_ERROR = 3, 4
"""Exit statuses of the building process, which prints the messages as JSON."""


class TokenizedCache:
    """A finished cache, memory-mapped."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        """Args:
        folder: as returned by `open_cache`; taken to be whole.
        files: the sources under their present names, in the order of the key.
        """
        meta = read_json(folder / "meta.json")
        self.folder = folder
        self.files = list(files)
        self.report = DataReport.from_dict(meta["report"])
        self.tokens: Tokens = self._map("tokens")
        self.turns: Turns = self._map("turns")
        self.offsets: npt.NDArray[np.int64] = self._map("offsets")
        self.origins: npt.NDArray[np.int64] = self._map("origins").reshape(-1, 3)

    def _map(self, name: str) -> npt.NDArray[Any]:
        path = self.folder / f"{name}.bin"
        if not path.stat().st_size:
            return np.zeros(0, dtype=DTYPES[name])
        return np.memmap(path, dtype=DTYPES[name], mode="r")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> tuple[Tokens, Turns]:
        """Token ids and turns of one row, [length] each."""
        start, end = self.offsets[number], self.offsets[number + 1]
        return self.tokens[start:end], self.turns[start:end]

    def origin(self, number: int) -> tuple[str, int, int]:
        """File, line and row of one row: see `rows.Row`."""
        file, line, row = map(int, self.origins[number])
        return str(self.files[file]), line, row


@dataclass(frozen=True, kw_only=True)
class CacheSource:
    """What a cache is made of."""

    files: list[Path]
    tokenizer: ChatTokenizer
    template: ChatTemplate
    rules: tokenize.Rules = AS_IT_COMES

    @classmethod
    def of(cls, paths: Sequence[str | Path], tokenizer: str | Path, rules: tokenize.Rules = AS_IT_COMES) -> CacheSource:
        """Args:
            paths: files and folders of conversations.
            tokenizer: a Hugging Face tokenizer folder.
            rules: what becomes of conversations.
        Raises:
            DataError, TokenizerError, TemplateError: what is missing.
        """
        loaded = load_chat_tokenizer(tokenizer)
        return cls(files=find_sources(paths), tokenizer=loaded, template=ChatTemplate.of(loaded), rules=rules)

    def key(self) -> str:
        """64 hex digits; reads all data."""
        import datetime

        parts = {
            "files": [file_sha256(path) for path in self.files],
            "suffixes": [path.suffix for path in self.files],
            "columns": [columns and asdict(columns) for columns in map(columns_of, self.files)],
            "tokenizer": self.tokenizer.files_sha256,
            "vocabulary": self.tokenizer.vocab_size,
            "named tokens": dict(self.tokenizer.named_tokens),
            "template": self.template.sha256,
            "rules": asdict(self.rules),
            "day": datetime.date.today().isoformat() if self.template.follows_the_calendar else None,
            "tokenizers": tokenizers.__version__,
            "code": [file_sha256(path) for path in CODE],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def open_cache(source: CacheSource, folder: Path, *, say: Say, workers: int = 0) -> TokenizedCache:
    """The cache of this data, built first if it is not there; every process of a machine may call this at once.

    One builds, the others wait for it. All check the checksums. Workers are forked, so they come from a fresh
    process: this one may have threads, of torch or of a tokenizer.

    Args:
        folder: where caches lie.
        workers: processes; 0 takes every core, 1 works in this process.
        say: told what happens.
    Raises:
        DataError, TemplateError: see `tokenize_files`; nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"sft-{source.key()[:20]}"
    with _locked(target, fcntl.LOCK_SH, say):
        if defect(target) is None:
            return TokenizedCache(target, source.files)
    with _locked(target, fcntl.LOCK_EX, say):
        wrong = defect(target)  # another process may have built it by now
        if wrong is not None:
            again = Message("cache-again", why=wrong) if target.exists() else ""
            say(Message("cache-tokenizing", files=len(source.files), target=target, again=again))
            if workers == 1:
                build(source, target, workers=1)
            else:
                _build_elsewhere(source, target, workers)
        return TokenizedCache(target, source.files)


@contextlib.contextmanager
def _locked(target: Path, kind: int, say: Say) -> Iterator[None]:
    """Hold the lock of a cache; the kernel releases it when its holder dies, however that happens."""
    with target.with_suffix(".lock").open("a") as lock:
        if not _free_soon(lock, kind):
            say(Message("cache-waiting", target=target))
            fcntl.flock(lock, kind)
        yield


PATIENCE = 2.0
"""Seconds that a build may take before those who wait for it say so."""


def _free_soon(lock: IO[str], kind: int) -> bool:
    """Take a lock that is free, or is soon; False if it is not."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        else:
            return True


def defect(target: Path) -> Message | None:
    """Why this is not a whole cache; None if it is one. Reads all of it."""
    try:
        meta = read_json(target / "meta.json")
        DataReport.from_dict(meta["report"])
        for name in DTYPES:
            path, wanted = target / f"{name}.bin", meta["parts"][name]
            if path.stat().st_size != wanted["bytes"]:
                return Message("cache-size", file=path.name, size=path.stat().st_size, wanted=wanted["bytes"])
            if file_sha256(path) != wanted["sha256"]:
                return Message("cache-changed", file=path.name)
    except FileNotFoundError as error:
        return Message("file-missing", file=Path(str(error.filename)).name)
    except (ValueError, KeyError, TypeError) as error:
        return Message("cache-meta", error=repr(error))
    return None


def _build_elsewhere(source: CacheSource, target: Path, workers: int) -> None:
    """In a fresh process, with its progress on this one's stderr."""
    command = [sys.executable, "-m", "megatron_patch.data.sft.build_cache", str(target), str(source.tokenizer.path)]
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    files = [str(path) for path in source.files]
    rules = ["--dropped", source.rules.dropped, "--turns", source.rules.turns]
    done = subprocess.run(
        [*command, "--workers", str(workers), *rules, "--", *files], env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        kind = {DATA_ERROR: DataError, TEMPLATE_ERROR: TemplateError}.get(done.returncode)
        if kind is not None:
            raise kind.of([from_json(message) for message in json.loads(done.stdout)])
        raise DataError("cache-failed", target=target, why=done.stdout.strip() or _how_it_ended(done.returncode))


def _how_it_ended(status: int) -> Message:
    if status >= 0:
        return Message("ended-status", status=status)
    code = "ended-memory" if -status == signal.SIGKILL else "ended-signal"
    return Message(code, signal=signal.Signals(-status).name)


def build(source: CacheSource, target: Path, *, workers: int, advance: Advance | None = None) -> None:
    """Write the folder beside its place and move it there; the caller holds the lock."""
    for left_over in target.parent.glob(f".{target.name}.*"):  # of a process that was killed
        shutil.rmtree(left_over)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        meta = _write_whatever_engine(source, partial, workers, advance)
        (partial / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        if not target.name.endswith(source.key()[:20]):
            raise DataError("cache-data-changed")
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_whatever_engine(source: CacheSource, partial: Path, workers: int, advance: Advance | None) -> dict[str, Any]:
    """With the fast engine, and where that proves to be wrong from the start again with Hugging Face's."""
    try:
        return _write_parts(source, partial, Encoder(source.tokenizer), workers, advance)
    except EngineError as error:
        slow = Encoder(source.tokenizer, "hf")
        slow.note = Message("engine-again", note=slow.note, why=error)
        return _write_parts(source, partial, slow, workers, advance)


def _write_parts(
    source: CacheSource, partial: Path, encoder: Encoder, workers: int, advance: Advance | None
) -> dict[str, Any]:
    found = DataReport(engine=encoder.note, files=[FileReport(path=str(path)) for path in source.files])
    lengths = [np.zeros(1, dtype=np.int64)]
    with contextlib.ExitStack() as stack:
        parts = {name: stack.enter_context(_Part(partial / f"{name}.bin")) for name in DTYPES}
        for piece in tokenize.tokenize_files(source.files, encoder, source.template, workers, source.rules):
            parts["tokens"].write(piece.tokens)
            parts["turns"].write(piece.turns)
            parts["origins"].write(np.column_stack([np.full(len(piece.places), piece.file), piece.places]))
            lengths.append(piece.lengths)
            _account(found, piece)
            if advance:
                advance(piece.size, piece.rows)
        parts["offsets"].write(np.cumsum(np.concatenate(lengths), dtype=np.int64))
    sealed = {name: {"bytes": part.bytes, "sha256": part.digest.hexdigest()} for name, part in parts.items()}
    return {"report": found.as_dict(as_json), "parts": sealed}


def _account(found: DataReport, piece: tokenize.TokenizedRows) -> None:
    found.rows += piece.rows
    file = found.files[piece.file]
    file.special_rows += piece.special_rows
    file.rows_without_eos += piece.rows_without_eos
    for counted, into in ((piece.formats, file.formats), (piece.unused_keys, file.unused_keys)):
        for name, count in counted.items():
            into[name] = into.get(name, 0) + count
    for key, unread in piece.unread.items():
        if key in file.unread:
            file.unread[key].add(unread)
        else:
            file.unread[key] = unread
    for cause, line, row, why in piece.lost:
        found.lose(cause, file.path, line, row, why)
    for cause, line, row, why in piece.noted:
        found.note(cause, file.path, line, row, why)


class _Part:
    """One file of a cache, hashed while it is written and on the disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self.digest = hashlib.sha256()
        self.bytes = 0
        self._file: BinaryIO = path.open("wb")

    def write(self, values: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self.digest.update(data)
        self.bytes += len(data)
        self._file.write(data)

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
