"""argparse's parser, in the user's language; flags are written out; its errors show no secrets: a misspelt flag is
named and the nearest one, what was given to it is masked."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from megatron_patch.common import tools
from megatron_patch.common.messages import localized
from megatron_patch.common.terminal import SECRET, masked
from megatron_patch.common.texts import command_lines
from megatron_patch.common.values import nearest_word

CODES = {text: code for code, text in command_lines.ENGLISH.items()}


def translated(english: str) -> str:
    """One of argparse's own texts."""
    return localized(CODES[english]) if english in CODES else english


vars(argparse).update(_=translated, ngettext=lambda one, many, count: translated(one if count == 1 else many))
"""argparse asks gettext, for which nobody ships a Chinese catalogue."""


class ArgumentParser(argparse.ArgumentParser):
    """What every command line of this package is read with. It takes no abbreviations: `--iter` would become another
    flag's, or ambiguous, as soon as there is one that begins so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.prog = tools.started_as or self.prog
        self._strangers: list[str] = []

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse's, which prints `unrecognized arguments: --wandb_tokn hf_...` with the token."""
        words = sys.argv[1:] if args is None else list(args)
        self._strangers = [word for word in words if word.startswith("--") and self._is_unknown(word)]
        known, left = self.parse_known_args(args, namespace)
        self._strangers = []
        if left:
            self.error(self._unrecognized(left))
        return known

    def _is_unknown(self, word: str) -> bool:
        return word != "--" and word.partition("=")[0] not in self._option_string_actions

    def _unrecognized(self, left: Iterable[str]) -> str:
        said = translated("unrecognized arguments: %s") % " ".join(mask_values(left))
        near = self._nearest(left)
        return localized("unknown-nearest", said=said, nearest=near) if near else said

    def _nearest(self, words: Iterable[str]) -> list[str]:
        """Flags of ours that are most like those that nobody knows."""
        known = tuple(name for name in self._option_string_actions if name.startswith("--"))
        names = [word.partition("=")[0] for word in words if word.startswith("--")]
        return list(dict.fromkeys(near for name in names if (near := nearest_word(name, known)) is not None))

    def error(self, message: str) -> NoReturn:
        """As argparse's, and flags that nobody knows: the one that is missing may be among them. A value that looks
        like a secret is masked."""
        if self._strangers:
            message = localized("also", first=message, second=self._unrecognized(self._strangers))
        super().error(re.sub(r"'([^']*)'", lambda found: f"'{hidden(found[1])}'", message))


def as_variable(name: str) -> str:
    """The help of a flag that is one of our variables."""
    return localized("help-as-variable", name=name)


def hidden(value: str) -> str:
    """A value of a known name: shown, unless it is a secret by its look."""
    return masked(value) if SECRET.match(value) else value


def mask_values(words: Iterable[str]) -> list[str]:
    """Words of a command line that nobody knows: flags as they are, values masked where they may be secrets."""
    shown = []
    for word in words:
        name, equals, value = word.partition("=")
        is_flag = word.startswith("-") and len(word) > 1
        shown.append(f"{name}{equals}{masked(value)}" if is_flag else masked(word))
    return shown
