"""Fails if .venv holds a package that no requirements file asks for, directly or through another package.

`.ci/run` calls it last: a test that passes only because somebody once typed `pip install` fails here.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

INSTALLERS = {"pip", "uv"}
"""Put there by toolkits/setup.sh itself."""


def required_by_files(paths: list[Path]) -> list[Requirement]:
    """The requirements of these files; `-r` lines are skipped, the caller passes every file."""
    lines = [line.split("#")[0].strip() for path in paths for line in path.read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-r")]


def closure(roots: list[Requirement]) -> set[str]:
    """Canonical names of all that these requirements pull in, as far as it is installed."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = list(roots)
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue  # an optional one for another platform; a missing one fails `pip check`
        extras = requirement.extras or {""}
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                todo.append(need)
    return {name for name, _ in seen}


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    wanted = closure(required_by_files(sorted(root.glob("requirements*.txt")))) | INSTALLERS
    here = {canonicalize_name(re.sub(r"\s", "", d.metadata["Name"])) for d in metadata.distributions()}
    if strangers := sorted(here - wanted):
        print(f"not in requirements*.txt, nor needed by anything there: {', '.join(strangers)}", file=sys.stderr)
        return 1
    print(f"{len(here)} packages, all asked for")
    return 0


if __name__ == "__main__":
    sys.exit(main())
