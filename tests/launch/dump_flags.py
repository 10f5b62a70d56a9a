"""The rows of megatron_flags.txt, from the installed wheel: `python dump_flags.py`, in a process of its own."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Parsed(Exception):
    """Megatron's parser, taken before it reads a command line."""


def parser() -> argparse.ArgumentParser:
    """Megatron's, with our flags."""
    from megatron_patch.backend import enable

    enable("cpu")
    from megatron.training import arguments

    from megatron_patch.trainer.arguments import add_arguments

    def take(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        raise Parsed(self)

    argparse.ArgumentParser.parse_known_args = take  # type: ignore[method-assign,assignment]
    try:
        arguments.parse_args(extra_args_provider=add_arguments)
    except Parsed as found:
        (taken,) = found.args
        assert taken.allow_abbrev is False
        return taken
    raise AssertionError("Megatron parsed nothing")


def words_of_the_wheel() -> set[str]:
    """Every identifier in the wheel's sources; of the parser's own only those that read an argument."""
    import megatron.training

    found: set[str] = set()
    import megatron_patch

    folders = (Path(megatron.training.__file__).parents[1], Path(str(megatron_patch.__file__)).parent)
    for file in (file for folder in folders for file in folder.rglob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.name == "arguments.py":
            text = " ".join(re.findall(r"args\.\w+|getattr\(args, ['\"]\w+", text))
        found |= set(re.findall(r"[A-Za-z_]\w*", text))
    return found


def rows() -> Iterator[str]:
    """One line for each argument."""
    actions = parser()._actions
    known = words_of_the_wheel()
    arities = {None: "1", 0: "0", "?": "*"}
    for action in actions:
        if not action.option_strings or isinstance(action, argparse._HelpAction):
            continue
        kind = getattr(action.type, "__name__", "str") if action.type else "str"
        kind = kind if kind in ("int", "float", "str") else "other"
        words = [",".join(action.option_strings), str(arities.get(action.nargs, action.nargs)), kind]
        words += [",".join(map(str, action.choices))] if action.choices and kind != "other" else []
        yield " ".join(words + (["unread"] if action.dest not in known else []))


if __name__ == "__main__":
    lines = sorted(rows())
    sys.stdout.write("\n".join(lines) + "\n")
