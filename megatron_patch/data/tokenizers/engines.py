"""Text to token ids by the fastest way that gives what Hugging Face gives.

gigatoken (MIT) is 40 to 60 times as fast as `tokenizers` on one core, young, and of one author: it must first give
the same ids on the awkward texts below and on the run's own first documents, and then on a piece of every chunk.
Otherwise Hugging Face's own encodes, and the report says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.data.tokenizers.text_tokenizer import AWKWARD, TextTokenizer, TokenizerError

Ids = npt.NDArray[np.uint32]
Lengths = npt.NDArray[np.int64]
ENGINES = ("auto", "gigatoken", "hf")

SAMPLE_CHARACTERS = 100_000
"""Of the run's first documents, compared before it starts: a tenth of a second."""
PIECE_CHARACTERS = 1000
"""Of one document in each chunk, compared on the way: one thousandth of the text, one hundredth of the time."""


class EngineError(UserError, ValueError):
    """The fast engine cannot be used for this tokenizer, or has given other ids than Hugging Face; says which text."""


class HasBackend(Protocol):
    """A tokenizer, of whichever class."""

    @property
    def backend(self) -> Tokenizer:
        """Of the `tokenizers` library."""


class Engine(Protocol):
    """Encodes texts on one core; a process has one."""

    @property
    def name(self) -> str:
        """For reports and records."""

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """Ids of all texts, one after the other, and how many each has; BOS included where it is wanted."""


@dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """The `tokenizers` library: the measure of what is right."""

    tokenizer: HasBackend
    special: bool
    """Whether to add what the tokenizer adds around a text, such as BOS."""
    name: str = "hf"

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """See `Engine`."""
        encodings = self.tokenizer.backend.encode_batch_fast(texts, add_special_tokens=self.special)
        lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        return np.concatenate([np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]), lengths

    def ids(self, text: str) -> list[int]:
        """Of one text, in this thread."""
        return list(self.tokenizer.backend.encode(text, add_special_tokens=self.special).ids)


class Gigatoken:
    """The `gigatoken` library, with what the tokenizer adds around a text put there by us."""

    name = "gigatoken"

    def __init__(self, tokenizer: HasBackend, special: bool) -> None:
        """Raises EngineError: it does not know this kind of tokenizer."""
        with _its_failures("gigatoken-tokenizer"):
            import gigatoken

            self._tokenizer: Any = gigatoken.Tokenizer.from_json(tokenizer.backend.to_str())
        if tokenizer.backend.encode_special_tokens:
            raise EngineError("gigatoken-split")
        self._before, self._after = _around(tokenizer) if special else ([], [])

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """See `Engine`. Raises EngineError: it failed, however it did."""
        with _its_failures("gigatoken-failed"):
            layout = self._tokenizer.encode_batch(texts, parallel=False).layout
            offsets = np.asarray(layout.offsets.data, dtype=np.int64)
            ids = np.asarray(layout.content.data)[offsets[0] : offsets[-1]]
        lengths = np.diff(offsets)
        if not self._before and not self._after:
            return ids, lengths
        extra = len(self._before) + len(self._after)
        ends = np.cumsum(lengths + extra)
        starts = ends - lengths - extra
        whole = np.empty(len(ids) + extra * len(texts), dtype=np.uint32)
        inside = np.ones(len(whole), dtype=bool)
        for at, number in enumerate(self._before):
            whole[starts + at], inside[starts + at] = number, False
        for at, number in enumerate(reversed(self._after), start=1):
            whole[ends - at], inside[ends - at] = number, False
        whole[inside] = ids
        return whole, lengths + extra

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """[vocabulary], how many bytes of a text each token stands for in a byte-level vocabulary."""
        with _its_failures("gigatoken-vocabulary"):
            vocabulary: dict[int, bytes] = self._tokenizer.vocab
            sizes = np.zeros(max(vocabulary) + 1, dtype=np.int64)
        for number, token in vocabulary.items():
            sizes[number] = len(token)
        return sizes

    def ids(self, text: str) -> list[int]:
        """Of one text."""
        return [int(number) for number in self.encode([text])[0]]


@contextlib.contextmanager
def _its_failures(code: str) -> Iterator[None]:
    """Anything that the Rust side raises, panics among them, as an EngineError: Hugging Face's engine takes over."""
    try:
        yield
    except (EngineError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of Rust's is not an Exception
        raise EngineError(code, kind=type(error).__name__, error=str(error)) from None


def _around(tokenizer: HasBackend) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer's post-processor puts before and after a text."""
    bare = tokenizer.backend.encode("a", add_special_tokens=False).ids
    full = tokenizer.backend.encode("a", add_special_tokens=True).ids
    for at in range(len(full) - len(bare) + 1):
        if full[at : at + len(bare)] == bare:
            return full[:at], full[at + len(bare) :]
    raise EngineError("gigatoken-around")


class SentencePiece:
    """A bare SentencePiece model (Llama 2, Tanuki), as megatron-core's `SentencePieceTokenizer` encodes: no BOS."""

    name = "sentencepiece"

    def __init__(self, model: Path) -> None:
        """Raises TokenizerError: not a SentencePiece model, or one without an end of text."""
        import sentencepiece

        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(model))
        except (OSError, RuntimeError) as error:
            raise TokenizerError("pieces-unreadable", file=model, error=error) from None
        self.vocab_size = int(self._model.get_piece_size())
        self.eod_id = int(self._model.eos_id())
        self.note = Message("note-pieces")
        self.eod_token = str(self._model.id_to_piece(self.eod_id)) if self.eod_id >= 0 else ""
        if self.eod_id < 0:
            raise TokenizerError("pieces-no-end", file=model)

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """See `Engine`."""
        rows = self._model.encode(texts, num_threads=1)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return np.concatenate([np.array(row, dtype=np.uint32) for row in rows]), lengths


def choose(tokenizer: TextTokenizer, first: list[str], *, special: bool, wanted: str) -> tuple[Engine, Message]:
    """The engine for a run, and a line about it.

    Args:
        first: the run's first documents, of which up to SAMPLE_CHARACTERS are compared.
        special: whether BOS and its like are added.
        wanted: of ENGINES; `gigatoken` fails where `auto` falls back.
    Raises:
        EngineError: gigatoken was asked for by name and cannot be used.
    """
    slow = HuggingFace(tokenizer=tokenizer, special=special)
    if wanted == "hf":
        return slow, Message("engine-hf-asked")
    try:
        fast = Gigatoken(tokenizer, special)
        count = compare(fast, slow, battery(tokenizer) + _up_to(first, SAMPLE_CHARACTERS))
    except EngineError as error:
        if wanted == "gigatoken":
            raise
        return slow, Message("engine-fallback", why=error)
    return fast, Message("engine-gigatoken", texts=count)


def battery(tokenizer: HasBackend) -> list[str]:
    """Texts on which tokenizers differ, among them each added token inside a text (at most 64 of them)."""
    added = [token.content for _, token in sorted(tokenizer.backend.get_added_tokens_decoder().items())]
    step = max(1, len(added) // 64)
    inside = [text for token in added[::step] for text in (token, f"a{token}b", f" {token} \n{token}{token}")]
    return [*AWKWARD, *inside]


def _up_to(texts: list[str], characters: int) -> list[str]:
    chosen = []
    for text in texts:
        chosen.append(text[: max(0, characters)])
        characters -= len(text)
        if characters <= 0:
            break
    return chosen


def compare(fast: Gigatoken, slow: HuggingFace, texts: list[str]) -> int:
    """See that both give the same ids; returns how many texts were compared.

    Raises:
        EngineError: they do not; names the text and the first difference.
    """
    for text in texts:
        left, right = fast.ids(text), slow.ids(text)
        if left != right:
            pairs = enumerate(zip(left, right, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
            ids = {"fast": str(left[at : at + 4]), "slow": str(right[at : at + 4])}
            raise EngineError("gigatoken-differs", **ids, token=at, text=text[:60])
    return len(texts)
