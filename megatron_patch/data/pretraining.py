"""Text to a Megatron pretraining dataset: the work behind `preprocess.py`.

Each document becomes BOS (where the tokenizer adds one), its text, and EOD, in the order of files and lines,
whatever the number of processes or machines: byte-identical to Megatron's `preprocess_data.py --append-eod` with
`HuggingFaceTokenizer` (or `SentencePieceTokenizer`). Memory is bounded by the chunks in flight.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.errors import UsageError
from megatron_patch.common.messages import Message
from megatron_patch.common.progress import WorkBar
from megatron_patch.common.terminal import plain
from megatron_patch.data.corpus import TextCorpus, find_corpus
from megatron_patch.data.fast_tokenize import ChunkTokenizer, encode_all, first_texts
from megatron_patch.data.idxmap.merge import shard_prefix
from megatron_patch.data.idxmap.resumable import ResumableWriter
from megatron_patch.data.jsonl import DataError, ReadCounts
from megatron_patch.data.tokenizers.engines import Engine, EngineError, HuggingFace, SentencePiece, choose
from megatron_patch.data.tokenizers.sentencepiece import find_sentencepiece
from megatron_patch.data.tokenizers.text_tokenizer import TextTokenizer, load_tokenizer
from megatron_patch.data.workers import more_than_taken, workers_for

AnyTokenizer = TextTokenizer | SentencePiece


@dataclass(frozen=True, kw_only=True)
class PretrainingRequest:
    """What to build."""

    source: Path
    """A file (JSON Lines, also .gz or .zst; Parquet), or a folder that is searched for such."""
    tokenizer: Path
    """Hugging Face tokenizer folder, or a SentencePiece model (.model)."""
    output_prefix: str
    """FOLDER/NAME. As Megatron's tool names its output: OUTPUT_PREFIX_{json_key}_document.bin and .idx."""
    json_key: str = "text"
    append_eod: bool = True
    special_tokens: bool = True
    """Whether the tokenizer adds BOS and its like; false is Megatron's --tokenizer-hf-no-include-special-tokens."""
    workers: str = "0"
    """Processes, as typed; 0 takes every core."""
    engine: str = "auto"
    """Of `engines.ENGINES`."""
    shard: str = "1/1"
    """I/N, as typed: of N machines, this is the I-th."""
    overwrite: bool = False

    @property
    def whole_prefix(self) -> Path:
        """Of the whole dataset: what the driver takes as DATASET_PATH."""
        return Path(f"{self.output_prefix}_{self.json_key}_document")

    @property
    def prefix(self) -> Path:
        """Of what this run writes: the dataset, or its shard of it."""
        number, count = shard_of(self.shard)
        return self.whole_prefix if count == 1 else shard_prefix(self.whole_prefix, number, count)

    @property
    def corpus(self) -> TextCorpus:
        """What this run reads.

        Raises:
            DataError: nothing there.
        """
        number, count = shard_of(self.shard)
        return TextCorpus(files=find_corpus(self.source), key=self.json_key, shard=number - 1, shards=count)


def shard_of(text: str) -> tuple[int, int]:
    """`2/4` is the second of four.

    Raises:
        UsageError: something else.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError("usage-shard", found=text)
    return number, count


def load(path: Path) -> AnyTokenizer:
    """The tokenizer of a folder, or a SentencePiece model.

    Raises:
        TokenizerError: there is none.
    """
    model = find_sentencepiece(path)
    return SentencePiece(model) if model else load_tokenizer(path)


def about(request: PretrainingRequest, corpus: TextCorpus, tokenizer: AnyTokenizer) -> dict[str, Any]:
    """What decides the ids: goes into PREFIX.build.json, and all shards agree on it."""
    return {
        "kind": "megatron_patch idxmap, version 1",
        "files": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in corpus.files],
        "json_key": request.json_key,
        "tokenizer_sha256": tokenizer_sum(request.tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "eod": tokenizer.eod_id if request.append_eod else None,
        "special_tokens": request.special_tokens,
        "shards": corpus.shards,
    }


def tokenizer_sum(path: Path) -> str:
    """SHA-256 of tokenizer.json, else of the SentencePiece model."""
    file = find_sentencepiece(path) or path / "tokenizer.json"
    return file_sha256(file) if file.is_file() else "none"


def build(request: PretrainingRequest, tokenizer: AnyTokenizer, console: Console) -> list[Message]:
    """Write the dataset and return the report.

    Raises:
        DataError: a bad line, or no document at all; nothing is left at the output.
        EngineError: gigatoken was asked for by name, and differs from Hugging Face.
    """
    corpus = request.corpus
    if isinstance(tokenizer, SentencePiece):
        return _build(request, corpus, tokenizer, tokenizer, Message("engine-pieces"), console)
    engine, note = choose(tokenizer, first_texts(corpus), special=request.special_tokens, wanted=request.engine)
    try:
        return _build(request, corpus, tokenizer, engine, note, console)
    except EngineError as error:
        if request.engine == "gigatoken":
            raise
        note = Message("engine-again-slower", why=error)
        console.print(plain(note.localized()), style="bold", markup=False)
        slow = HuggingFace(tokenizer=tokenizer, special=request.special_tokens)
        return _build(request, corpus, tokenizer, slow, note, console)


def _build(
    request: PretrainingRequest,
    corpus: TextCorpus,
    tokenizer: AnyTokenizer,
    engine: Engine,
    note: Message,
    console: Console,
) -> list[Message]:
    judge = None
    if isinstance(tokenizer, TextTokenizer) and not isinstance(engine, HuggingFace):
        judge = HuggingFace(tokenizer=tokenizer, special=request.special_tokens)
    encoder = ChunkTokenizer(
        corpus=corpus,
        engine=engine,
        judge=judge,
        end=tokenizer.eod_id if request.append_eod else None,
        vocab_size=tokenizer.vocab_size,
    )
    made = {**about(request, corpus, tokenizer), "shard": corpus.shard + 1, "engine": engine.name}
    fingerprint = hashlib.sha256(json.dumps(made).encode()).hexdigest()
    request.prefix.parent.mkdir(parents=True, exist_ok=True)
    began, worked = time.monotonic(), Counter[str]()
    workers = workers_for(int(request.workers))
    with (
        WorkBar("bar-tokenizing", corpus.total(), stream=console.file) as bar,
        ResumableWriter(request.prefix, tokenizer.vocab_size, fingerprint) as writer,
    ):
        bar.advance(writer.journal.counts.get("bytes", 0), writer.resumed)
        for piece in encode_all(encoder, writer.position, workers):
            writer.add(piece.ids, piece.lengths, piece.end, piece.counts)
            worked.update(bytes=piece.counts["bytes"], tokens=len(piece.ids))
            bar.advance(piece.size, len(piece.lengths))
        if not writer.journal.documents and corpus.shards == 1:
            raise DataError("corpus-empty", source=request.source, **_left_out(writer))
        writer.finish(made)
    seconds = time.monotonic() - began
    took = {"seconds": seconds, "taken": workers, "more": more_than_taken(int(request.workers))}
    speed = {"tokens": worked["tokens"] / seconds, "megabytes": worked["bytes"] / seconds / 1e6}
    return [*_account(writer), note, Message("tokenized-in", **took, **speed), *_earlier(writer)]


def _account(writer: ResumableWriter) -> list[Message]:
    """What was written and left out, for the report."""
    journal, counts = writer.journal, writer.journal.counts
    return [
        Message("tokenized-written", prefix=writer.prefix, type=writer.dtype.__name__),
        Message("tokenized-counts", documents=journal.documents, tokens=journal.tokens, bytes=counts.get("bytes", 0)),
        Message("tokenized-left-out", **_left_out(writer)),
    ]


def _earlier(writer: ResumableWriter) -> list[Message]:
    return [Message("tokenized-resumed", documents=writer.resumed)] if writer.resumed else []


def _left_out(writer: ResumableWriter) -> dict[str, int]:
    counts = ReadCounts(**writer.journal.counts)
    return {"blank": counts.blank_lines, "empty": counts.empty_documents}
