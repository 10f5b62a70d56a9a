"""Tokens as they come, as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

UNFINISHED = "\ufffd"
"""What decodes from the first bytes of a character."""
WAITS = 12
"""Tokens that are waited for before bytes that make no character are shown as they are: no character has more."""


class Detokenizer:
    """Text of one token after the other; a character of several tokens comes with its last.

    A few tokens before the new one are decoded with it, as decoders write spaces between tokens by their neighbours.
    The `DecodeStream` of tokenizers does the same, and raises where bytes make no character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0
        """Where decoding begins."""
        self._told = 0
        """Tokens whose text is out."""

    def add(self, token: int) -> str:
        """The text that this token completes; empty while a character is not whole, and for special tokens."""
        self._ids.append(token)
        text = self._waiting()
        if text.endswith(UNFINISHED) and len(self._ids) - self._told < WAITS:
            return ""
        if text:
            self._context, self._told = self._told, len(self._ids)
        return text

    def rest(self) -> str:
        """What waits at the end."""
        return self._waiting()

    def _waiting(self) -> str:
        told = self._decode(self._ids[self._context : self._told])
        return self._decode(self._ids[self._context :])[len(told) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


class TokenStream:
    """What transformers' `generate` writes to: the prompt first, then each token."""

    def __init__(self, tokenizer: Tokenizer, show: Callable[[str], object]) -> None:
        """
        Args:
            show: gets each piece of text.
        """
        self._pieces = Detokenizer(tokenizer)
        self._show = show
        self._prompted = False
        self.ids: list[int] = []
        """Tokens of the answer."""
        self.text = ""

    def put(self, value: object) -> None:
        """Of transformers' BaseStreamer: a tensor of token ids."""
        if not self._prompted:
            self._prompted = True
            return
        for token in value.flatten().tolist():  # type: ignore[attr-defined]
            self.ids.append(token)
            self._tell(self._pieces.add(token))

    def end(self) -> None:
        """Of transformers' BaseStreamer. Also where an answer was broken off."""
        self._tell(self._pieces.rest())
        self._pieces = Detokenizer(self._pieces._tokenizer)

    def _tell(self, text: str) -> None:
        if text:
            self.text += text
            self._show(text)
