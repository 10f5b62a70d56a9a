"""No launch logic stands twice between the examples: they name facts, and one place knows how a run is started."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from megatron_patch.launch.command import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
RUN = 4
"""So many lines after one another, the same in two files, are one thing written twice."""
LAUNCHING = re.compile(
    r"torchrun|torch\.distributed|--nproc|--master-|MASTER_ADDR|srun|sbatch|-m megatron_patch\.launch"
)
"""Words of somebody who starts ranks."""


def scripts() -> list[Path]:
    found = [path for path in EXAMPLES.rglob("*") if path.suffix in (".sh", ".py") and "__pycache__" not in path.parts]
    assert len(found) > 10
    return found


def code(path: Path) -> list[str]:
    """Lines that do something, without white space around them."""
    text = re.sub(r'"""(.|\n)*?"""', "", path.read_text(encoding="utf-8"))
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "import ", "from "))]


def test_no_lines_stand_twice() -> None:
    places = defaultdict(set)
    for path in scripts():
        lines = code(path)
        for start in range(len(lines) - RUN + 1):
            places[tuple(lines[start : start + RUN])].add(path.relative_to(EXAMPLES).as_posix())
    assert {lines: files for lines, files in places.items() if len(files) > 1} == {}


def test_one_script_starts_the_launcher() -> None:
    """All others call it, or the same package's CLI."""
    found = {path.relative_to(EXAMPLES).as_posix() for path in scripts() if LAUNCHING.search("\n".join(code(path)))}
    assert found == {"llama3_1/run_mcore_llama3_1.sh"}


def test_a_second_family_is_facts() -> None:
    """Tanuki's scripts: one statement each."""
    for path in (EXAMPLES / "tanuki_8b").glob("*.sh"):
        if path.name != "facts.sh":
            assert len(code(path)) <= 4, path
