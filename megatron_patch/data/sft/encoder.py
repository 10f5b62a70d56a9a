"""Rendered conversations to token ids, and the turn of each token.

The text is tokenized in one piece, as `apply_chat_template` does; a token that straddles the start of a turn counts
as part of it, as there. Templates write BOS themselves: none is added.

gigatoken gives ids without places. In a byte-level vocabulary the tokens of a text are its bytes, so their lengths
are the places; a text for which they do not add up, or which the tokenizer normalizes (Qwen3 to NFC), goes to
Hugging Face's tokenizer, and one of each chunk goes to both.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tokenizers import normalizers

from megatron_patch.common.messages import Message
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.loss_mask import EARLIER_TURN, LAST_TURN, Tokens, Turns
from megatron_patch.data.sft.rendering.template import Rendered
from megatron_patch.data.tokenizers.engines import EngineError, Gigatoken, HuggingFace, battery, compare

COMPARED_CHARACTERS = 4000
"""The longest conversation that is given to both engines: a few milliseconds."""

Encoded = tuple[Tokens, Turns]


class Encoder:
    """Encodes with gigatoken where it gives the same as Hugging Face, else with Hugging Face."""

    def __init__(self, tokenizer: ChatTokenizer, engine: str = "auto") -> None:
        """Args:
        engine: of `engines.ENGINES`; `hf` after a difference was found on the way.
        """
        self._tokenizer = tokenizer
        self._fast: Gigatoken | None = None
        self.note = Message("engine-hf")
        if engine != "hf":
            try:
                self._fast = self._checked()
                self.note = Message("engine-gigatoken-sft")
            except EngineError as error:
                self.note = Message("engine-fallback-sft", why=error)
        if tokenizer.difference:
            self.note = Message("also", first=self.note, second=tokenizer.difference)

    def _checked(self) -> Gigatoken:
        fast = Gigatoken(self._tokenizer, special=False)
        compare(fast, HuggingFace(tokenizer=self._tokenizer, special=False), battery(self._tokenizer))
        self._sizes = fast.token_bytes()
        return fast

    def encode(self, rendered: list[Rendered]) -> list[Encoded]:
        """Token ids and, for each, the turn it belongs to.

        Raises:
            EngineError: gigatoken gave something else than Hugging Face.
        """
        if self._fast is None or not rendered:
            return self._by_hugging_face(rendered)
        found = self._by_gigatoken(self._fast, rendered)
        self._compare(rendered, found)
        return found

    def _by_gigatoken(self, fast: Gigatoken, rendered: list[Rendered]) -> list[Encoded]:
        ids, lengths = fast.encode([item.text for item in rendered])
        ends = np.cumsum(lengths)
        found = []
        for item, end, length in zip(rendered, ends, lengths, strict=True):
            tokens = ids[end - length : end].astype(np.int32)
            if self._is_changed(item.text):
                found += self._by_hugging_face([item])
                continue
            places = np.cumsum(self._sizes[tokens])
            size = len(item.text) if item.text.isascii() else len(item.text.encode())
            if (int(places[-1]) if len(places) else 0) != size:
                found += self._by_hugging_face([item])
                continue
            spans = item.spans if size == len(item.text) else [_in_bytes(item.text, span) for span in item.spans]
            found.append((tokens, _turns(places - self._sizes[tokens], places, spans)))
        return found

    def _is_changed(self, text: str) -> bool:
        """Whether the tokenizer's normalizer gives the text other characters: lengths may then add up by chance."""
        normalizer = self._tokenizer.backend.normalizer
        if normalizer is None or (isinstance(normalizer, normalizers.NFC) and text.isascii()):
            return False
        return bool(normalizer.normalize_str(text) != text)

    def _by_hugging_face(self, rendered: list[Rendered]) -> list[Encoded]:
        encodings = self._tokenizer.backend.encode_batch([item.text for item in rendered], add_special_tokens=False)
        found = []
        for item, encoding in zip(rendered, encodings, strict=True):
            starts, ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
            found.append((np.array(encoding.ids, dtype=np.int32), _turns(starts, ends, item.spans)))
        return found

    def _compare(self, rendered: list[Rendered], found: list[Encoded]) -> None:
        """The first conversation that is short enough, from a place that the chunk's own text decides."""
        start = len(rendered[0].text) % len(rendered)
        for number in (*range(start, len(rendered)), *range(start)):
            if len(rendered[number].text) <= COMPARED_CHARACTERS:
                (expected,) = self._by_hugging_face([rendered[number]])
                tokens, turns = found[number]
                if not (np.array_equal(tokens, expected[0]) and np.array_equal(turns, expected[1])):
                    raise EngineError("engine-places", text=rendered[number].text[-60:])
                return


def _in_bytes(text: str, span: tuple[int, int]) -> tuple[int, int]:
    start = len(text[: span[0]].encode())
    return start, start + len(text[span[0] : span[1]].encode())


def _turns(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], spans: list[tuple[int, int]]) -> Turns:
    """The turn of each token, from the places of tokens and turns in the same unit."""
    turns = np.zeros(len(starts), dtype=np.uint8)
    for number, (start, end) in enumerate(spans, start=1):
        turns[(starts < end) & (ends > start)] = LAST_TURN if number == len(spans) else EARLIER_TURN
    return turns
