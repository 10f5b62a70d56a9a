"""English sentences in what a tool says in Chinese."""

from __future__ import annotations

import re

SENTENCE = re.compile(r"\b[A-Za-z][a-z']+,?(?: [a-z][a-z']+,?){2,}")
"""Three words or more in a row, all but the first in small letters: names begin with capitals or hold digits."""
VALUES = {"true", "false", "none", "dsw", "tiny", "sh"}


def english(text: str) -> list[str]:
    """Lines with an English sentence, commands to be typed left out."""
    lines = [
        line for line in text.splitlines() if not re.match(r"\s*(sh|torchrun|/\S*python\S*) |.*--nproc-per-node", line)
    ]
    found = [(line, match.group()) for line in lines for match in SENTENCE.finditer(line)]
    return [line for line, words in found if len(set(words.split()) - VALUES) > 2]
