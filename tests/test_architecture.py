"""The rooms of the house: who may import whom (docs/decisions.md says why). Read from the sources alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "megatron_patch"

FLOORS = (
    ("common",),
    ("models", "charts", "runs"),
    ("data", "backend"),
    ("peft",),
    ("checkpoint",),
    ("launch",),
    ("nemo", "planner", "trainer", "doctor", "evaluation", "generate"),
    ("report",),
    ("watch",),
    ("cli",),
)
"""From the ground up: a room imports rooms of lower floors, and nothing of its own floor or above."""


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room_of(module: str) -> str:
    return module.split(".")[1]


@cache
def modules() -> dict[str, Path]:
    """Dotted names and files of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str) -> Iterator[str]:
    """Modules of the package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and (node.module or "") in modules():
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else str(node.module)


@cache
def graph() -> dict[str, set[str]]:
    return {module: set(imports_of(module)) - {module} for module in modules()}


def test_imports_are_absolute() -> None:
    relative = [
        f"{path}:{node.lineno}"
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module) for module in modules() if module.count(".")} - {"torchrun"}
    assert rooms <= {room for floor in FLOORS for room in floor}


def test_no_import_goes_up() -> None:
    inside = ((a, b) for a, targets in graph().items() for b in targets if a.count(".") and b.count("."))
    between = {(a, b) for a, b in inside if room_of(a) != room_of(b) and "torchrun" not in (room_of(a), room_of(b))}
    up = {(a, b) for a, b in between if floor_of(room_of(a)) <= floor_of(room_of(b))}
    assert up == set()


def test_no_import_circle() -> None:
    try:
        order = list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")
    assert len(order) == len(modules())


def test_a_class_name_is_used_once() -> None:
    """A reader who meets `Report` or `Row` knows which one without looking at the imports."""
    homes: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def named_files(text: str) -> set[str]:
    """`a/b.py` and `a/` in a map."""
    return set(re.findall(r"[\w/-]+(?:\.py|/)(?=[\s,:;.)`|]|$)", text))


def missing_files(text: str, *places: Path) -> list[str]:
    return [
        name for name in named_files(text) if not any((place / name).exists() for place in (*places, PACKAGE.parent))
    ]


def test_the_rooms_maps_name_what_there_is() -> None:
    rooms = [path for path in modules().values() if path.name == "__init__.py"]
    texts = {path.parent: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in rooms}
    wrong = {str(room): missing_files(text, room, PACKAGE) for room, text in texts.items()}
    assert {room: names for room, names in wrong.items() if names} == {}


@pytest.mark.parametrize("page", ["AGENTS.md", "CONTRIBUTING.md"])
def test_pages_name_what_there_is(page: str) -> None:
    text = (PACKAGE.parent / page).read_text(encoding="utf-8")
    named = " ".join(re.findall(r"`([\w/.-]+/[\w/.-]*)`", text))
    assert named and missing_files(named, PACKAGE) == []


def test_the_wall_is_seen() -> None:
    """The graph that the tests above judge is really there."""
    assert "megatron_patch.models" in {target for targets in graph().values() for target in targets}
    assert sum(map(len, graph().values())) > 200
