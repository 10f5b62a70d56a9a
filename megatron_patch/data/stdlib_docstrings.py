"""Instructions and answers that are on every machine: signatures and docstrings of Python's standard library.

    python -m megatron_patch.data.stdlib_docstrings FOLDER      writes FOLDER/train.jsonl and FOLDER/valid.jsonl

One function or class is one line in the form of alpaca: `instruction` is the signature below the name of its file,
`output` the docstring. Files are split between training and validation as in `stdlib_text`, so that a model which was
pretrained on that has not seen these docstrings either.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from megatron_patch.common.messages import Message
from megatron_patch.common.terminal import guard
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.stdlib_text import is_validation, main, source_files, write_splits

SHORTEST = 10
"""Characters: `See base class.` is an answer, an empty docstring is none."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def signature(node: Definition) -> str:
    """`def name(arguments) -> result` or `class Name(Base)`, without decorators and default body."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in [*node.bases, *node.keywords])
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{word} {node.name}({ast.unparse(node.args)}){result}"


def conversations(relative: str, source: str) -> Iterator[dict[str, str]]:
    """Every documented function and class of one file, in the order of `ast.walk`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of escapes such as "\\d" in old files
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, Definition) and (docstring := ast.get_docstring(node, clean=False)):
            answer = inspect.cleandoc(docstring).strip()
            if len(answer) >= SHORTEST:
                yield {"instruction": f"# {relative}\n{signature(node)}", "output": answer}


def write_conversations(folder: Path) -> Message:
    """Write both files beside their place, move them there, and say what they hold.

    Raises:
        DataError: this Python came without its sources, or without their docstrings.
    """
    lines: dict[str, list[str]] = {"train": [], "valid": []}
    unreadable = 0
    for relative, path in source_files():
        try:
            found = list(conversations(relative, path.read_text(encoding="utf-8")))
        except (UnicodeDecodeError, SyntaxError):
            unreadable += 1
            continue
        split = "valid" if is_validation(relative) else "train"
        lines[split] += [json.dumps(row, ensure_ascii=False) + "\n" for row in found]
    if not all(lines.values()):
        raise DataError("stdlib-no-docstrings")
    return Message("stdlib-conversations", written=write_splits(folder, lines), unreadable=unreadable)


if __name__ == "__main__":
    guard()
    sys.exit(main(write_conversations, __doc__))
