"""Only backend/ knows Megatron's and torch's private names, or changes anything of theirs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "megatron_patch"
OUTSIDE = [path for path in sorted(PACKAGE.rglob("*.py")) if "backend" not in path.relative_to(PACKAGE).parts]
UPSTREAM = ("megatron", "torch", "transformer_engine")


def is_private(dotted: str) -> bool:
    """`torch._C` and `megatron.core.utils._helper` are; `__version__` is not."""
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))


def violations(tree: ast.AST) -> Iterator[str]:
    """Private imports, private attributes of imported modules, and assignments to upstream's attributes."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in UPSTREAM:
                    modules.add((alias.asname or alias.name).split(".")[0])
                    if is_private(alias.name):
                        yield f"line {node.lineno}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] in UPSTREAM:
            for alias in node.names:
                modules.add(alias.asname or alias.name)
                if is_private(f"{node.module}.{alias.name}"):
                    yield f"line {node.lineno}: from {node.module} import {alias.name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in modules:
            if is_private(node.attr):
                yield f"line {node.lineno}: {ast.unparse(node)}"
            elif isinstance(node.ctx, ast.Store):
                yield f"line {node.lineno}: {ast.unparse(node)} = ..."


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_else_touches_internals(path: Path) -> None:
    assert list(violations(ast.parse(path.read_text()))) == []


def test_the_guard_sees_violations() -> None:
    source = """
import torch
import megatron.training.training as training
from megatron.core.utils import _private_helper, public_helper
torch._C.something()
training.train_step = None
torch.__version__
"""
    found = "\n".join(violations(ast.parse(source)))
    assert "import _private_helper" in found
    assert "torch._C" in found
    assert "training.train_step = ..." in found
    assert "public_helper" not in found
    assert "__version__" not in found
