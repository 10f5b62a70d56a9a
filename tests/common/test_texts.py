"""No error of ours is raised with text: all texts stand in the catalogue, in both languages."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

from megatron_patch.common import texts
from megatron_patch.common.texts import ENGLISH

REPOSITORY = Path(texts.__file__).parents[3]
SOURCES = [
    path
    for folder in ("megatron_patch", "toolkits")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
    if "texts" not in path.parts
]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(node: ast.expr) -> str:
    """`Refusal` of `Refusal`, `errors.Refusal`, `Refusal.at`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in ("at", "of"):
        return node.value.id
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def own_errors() -> set[str]:
    """Names of the exceptions that are defined here."""
    bases = {
        node.name: [name_of(base) for base in node.bases]
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    }
    errors = {name for name, one in vars(builtins).items() if isinstance(one, type) and issubclass(one, BaseException)}
    while more := {name for name, of in bases.items() if errors.intersection(of)} - errors:
        errors |= more
    return errors & bases.keys()


def is_text(node: ast.expr) -> bool:
    """A literal that is not a code, an f-string, a sum or a join of them."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value not in ENGLISH
    if isinstance(node, ast.BinOp):
        return is_text(node.left) or is_text(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("join", "format") and isinstance(node.func.value, ast.Constant)
    if isinstance(node, ast.IfExp):
        return is_text(node.body) or is_text(node.orelse)
    return isinstance(node, ast.JoinedStr)


def made(tree: ast.AST, errors: set[str]) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Each error that is made, and what stands where its code should: behind the file's name in `Refusal.at`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in errors:
            place = 1 if isinstance(node.func, ast.Attribute) and node.func.attr == "at" else 0
            if len(node.args) > place:
                yield node, node.args[place]


def test_text_is_told_from_codes() -> None:
    """The test of the test."""
    said = {
        'PlanError("not-used", path=1)': 0,
        'PlanError.at("a file", "not-used")': 0,
        'PlanError("no such plan")': 1,
        'PlanError.at("a file", "not used")': 1,
        'PlanError(f"{path}: not used")': 1,
        'PlanError("; ".join(lines))': 1,
        'PlanError("not" + why)': 1,
        'PlanError("not-used" if a else "not used")': 1,
    }
    for source, count in said.items():
        assert sum(is_text(code) for _, code in made(ast.parse(source), {"PlanError"})) == count, source


def test_errors_are_raised_by_their_code() -> None:
    errors = own_errors()
    assert {"UserError", "TrainerError", "RendezvousError", "NothingFits", "Occupied"} <= errors
    found = [
        f"{path.relative_to(REPOSITORY)}:{call.lineno}"
        for path in SOURCES
        for call, code in made(tree_of(path), errors)
        if is_text(code)
    ]
    assert found == []
