"""Chunks of a corpus to token ids, on several cores and in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_patch.data.corpus import TextCorpus, read
from megatron_patch.data.idxmap.writer import token_type
from megatron_patch.data.rows import Chunk, ReadPosition
from megatron_patch.data.tokenizers.engines import PIECE_CHARACTERS, Engine, Gigatoken, HuggingFace, compare
from megatron_patch.data.workers import in_order


@dataclass(frozen=True, kw_only=True)
class ChunkTokenizer:
    """What a worker does to a chunk."""

    corpus: TextCorpus
    engine: Engine
    judge: HuggingFace | None
    """Compared with the engine on a piece of each chunk; None if the engine is the measure itself."""
    end: int | None
    """Id behind each document."""
    vocab_size: int

    def __call__(self, chunk: Chunk) -> TokenizedChunk:
        """Read and encode.

        Raises:
            DataError: a bad line.
            EngineError: the engine differs from its judge.
        """
        documents = read(chunk, self.corpus.files[chunk.start.file], self.corpus.key)
        dtype = token_type(self.vocab_size)
        if not documents.texts:
            ids, lengths = np.zeros(0, dtype=dtype), np.zeros(0, dtype=np.int64)
        else:
            if self.judge is not None and isinstance(self.engine, Gigatoken):
                which = chunk.start.offset % len(documents.texts)
                compare(self.engine, self.judge, [documents.texts[which][:PIECE_CHARACTERS]])
            raw, lengths = self.engine.encode(documents.texts)
            documents.counts.empty_documents += int((lengths == 0).sum())
            lengths = lengths[lengths > 0]
            ids = raw.astype(dtype)
            if self.end is not None:
                ids, lengths = _with_end(ids, lengths, self.end), lengths + 1
        return TokenizedChunk(ids=ids, lengths=lengths, end=chunk.end, counts=asdict(documents.counts), size=chunk.size)


@dataclass(frozen=True, kw_only=True)
class TokenizedChunk:
    """A chunk's documents."""

    ids: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]
    end: ReadPosition
    counts: dict[str, int]
    size: int


def _with_end(ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64], end: int) -> npt.NDArray[Any]:
    ends = np.cumsum(lengths + 1) - 1
    whole = np.empty(len(ids) + len(lengths), dtype=ids.dtype)
    inside = np.ones(len(whole), dtype=bool)
    inside[ends] = False
    whole[ends] = end
    whole[inside] = ids
    return whole


def encode_all(encoder: ChunkTokenizer, start: ReadPosition, workers: int) -> Iterator[TokenizedChunk]:
    """Every chunk from a position on, in order whatever the number of workers.

    Args:
        workers: processes; 1 works in this one.
    Raises:
        DataError, EngineError: see `ChunkTokenizer`.
        WorkerKilled: it was.
    """
    return in_order(encoder, encoder.corpus.chunks(start), workers)


def first_texts(corpus: TextCorpus) -> list[str]:
    """The documents of the first chunk, for choosing the engine.

    Raises:
        DataError: a bad line.
    """
    for chunk in corpus.chunks(ReadPosition()):
        return read(chunk, corpus.files[chunk.start.file], corpus.key).texts
    return []
