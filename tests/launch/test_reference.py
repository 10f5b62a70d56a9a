"""docs/reference.md and its Chinese twin are the code's tables, word for word.

`UPDATE_GOLDEN=1 pytest tests/launch/test_reference.py` rewrites them.
"""

from __future__ import annotations

import os
import re

import pytest

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.config import POSITIONS, read_values
from megatron_patch.launch.reference import reference
from megatron_patch.launch.variables import VARIABLES

README = REPOSITORY / "examples" / "llama3_1" / "README.md"
PAGES = {"en": REPOSITORY / "docs" / "reference.md", "zh": REPOSITORY / "docs" / "reference.zh-CN.md"}


@pytest.mark.parametrize("language", PAGES)
def test_the_pages_are_those_of_the_code(language: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        PAGES[language].write_text(reference(language), encoding="utf-8")
    assert PAGES[language].read_text(encoding="utf-8") == reference(language)


def test_every_row_is_there_in_both_languages() -> None:
    for row in (*POSITIONS, *VARIABLES):
        assert re.search("[\u4e00-\u9fff]|^Adam", row.chinese), row.name
        assert row.meaning and not re.search("[\u4e00-\u9fff]", row.meaning), row.name
    rows = {language: len(re.findall("^[|] ", reference(language), re.M)) for language in PAGES}
    assert set(rows.values()) == {len(POSITIONS) + len(VARIABLES) + 4}


def test_the_readme_points_there() -> None:
    assert "docs/reference.md" in README.read_text(encoding="utf-8")


def test_pais_command_stands_there_as_it_was() -> None:
    """25 values, in Pai-Megatron-Patch's order, that the parser reads."""
    text = README.read_text(encoding="utf-8")
    block = next(part for part in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "wudao" in part)
    words = block.replace("\\\n", " ").split()
    assert words[:2] == ["sh", "run_mcore_llama3_1.sh"]
    assert len(words) == 27
    assert not read_values(words[2:])[1]
