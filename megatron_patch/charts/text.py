"""Words in two languages: both are in the page, and CSS shows one of them."""

from __future__ import annotations

import math
import os
from html import escape
from typing import NamedTuple

from megatron_patch.common.messages import Message, Wording, language_of


class Text(NamedTuple):
    """The same words in English and in Chinese."""

    en: str
    zh: str


def both(message: Message) -> Text:
    """A message in both languages."""
    return Text(*(Wording(language=language).text(message) for language in Text._fields))


Words = str | Text
"""Names and numbers are the same in both languages."""


def tspans(words: Words) -> str:
    """Escaped SVG."""
    if isinstance(words, str):
        return escape(words)
    return "".join(
        f'<tspan lang="{lang}">{escape(word)}</tspan>' for lang, word in zip(("en", "zh"), words, strict=True)
    )


def english(words: Words) -> str:
    """What a picture outside the page shows."""
    return words if isinstance(words, str) else words.en


def spoken(words: Words) -> str:
    """In the language of this process's environment: for screens."""
    return words if isinstance(words, str) else getattr(words, language_of(os.environ))


def compact(value: float) -> str:
    """A number of at most four digits: 0.000125 is 1.25e-4, 1234567 is 1.23M."""
    size = abs(value)
    if not math.isfinite(value):
        return f"{value}"
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    if size == 0 or size >= 1e-2:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def gigabytes(size: float) -> str:
    """Bytes in decimal units."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
