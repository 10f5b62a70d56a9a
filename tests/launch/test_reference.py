"""The README's two tables are the code's tables, word for word.

`UPDATE_GOLDEN=1 pytest tests/launch/test_reference.py` rewrites them.
"""

from __future__ import annotations

import os
import re

from megatron_patch.launch.cluster.place import CLUSTER_VARIABLES
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.variables import VARIABLES

README = REPOSITORY / "examples" / "llama3_1" / "README.md"
MARKS = re.compile(r"(<!-- positions: begin[^\n]*-->\n)(.*?)(<!-- variables: end -->)", re.DOTALL)


def cell(text: object) -> str:
    return str(text).replace("|", "\\|")


def tables() -> str:
    """Both tables as Markdown."""
    lines = ["## The 25 positions", "", "| | name | meaning | valid | example |", "| --- | --- | --- | --- | --- |"]
    for row in POSITIONS:
        cells = (row.number, row.name, row.meaning, row.kind.valid, f"`{row.example}`")
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    lines += ["", "## MP_ variables", ""]
    lines.append("Set before the command. An unknown `MP_` variable is an error, with the nearest known one.")
    lines += ["", "| name | meaning | valid | default |", "| --- | --- | --- | --- |"]
    for variable in VARIABLES:
        default = "" if variable.default is None else f"`{str(variable.default).lower()}`"
        lines.append(f"| `{variable.name}` | {cell(variable.meaning)} | {cell(variable.kind.valid)} | {default} |")
    others = ", ".join(f"`{name}`" for name in CLUSTER_VARIABLES)
    lines += ["", f"`DRY_RUN=1` (or `--dry-run` after the 25 values) starts nothing. Under ENV=dlc also {others}.", ""]
    return "\n".join(lines)


def test_the_tables_are_those_of_the_code() -> None:
    text = README.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_GOLDEN"):
        text = MARKS.sub(lambda found: found.group(1) + tables() + found.group(3), text)
        README.write_text(text, encoding="utf-8")
    found = MARKS.search(text)
    assert found is not None
    assert found.group(2) == tables()


def test_the_seeds_command_stands_there_as_it_was() -> None:
    """25 values, in the seed's order, that the parser reads."""
    from megatron_patch.launch.config import read_values

    text = README.read_text(encoding="utf-8")
    block = next(part for part in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "wudao" in part)
    words = block.replace("\\\n", " ").split()
    assert words[:2] == ["sh", "run_mcore_llama3_1.sh"]
    assert len(words) == 27
    assert not read_values(words[2:])[1]
