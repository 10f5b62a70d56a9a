"""docs/from-pai.md: its command runs as it stands, and both languages say the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.variables import VARIABLES

from .conftest import write_idxmap, write_tokenizer

ENGLISH, CHINESE = ((REPOSITORY / "docs" / name).read_text() for name in ("from-pai.md", "from-pai.zh-CN.md"))


def test_its_commands_plan_a_run(tmp_path: Path) -> None:
    for name in ("examples", "toolkits", "megatron_patch"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    quickstart = tmp_path / "runs" / "quickstart"
    write_tokenizer(quickstart / "tokenizer")
    (quickstart / "data").mkdir()
    for split in ("train", "valid"):
        write_idxmap(quickstart / "data" / f"{split}_text_document")
    blocks = re.findall(r"```bash\n(.*?)```", ENGLISH, re.DOTALL)
    assert blocks
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MP_", "WANDB"))}
    for block in blocks:
        done = subprocess.run(
            ["sh", "-euc", block],
            cwd=tmp_path,
            env=environ | {"PYTHON": sys.executable, "MP_LANG": "en"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        assert "9 iterations" in done.stdout, done.stdout


def test_both_languages_have_the_same_commands_and_names() -> None:
    assert re.findall(r"```bash\n(.*?)```", ENGLISH, re.DOTALL) == re.findall(r"```bash\n(.*?)```", CHINESE, re.DOTALL)
    codes = [sorted(set(re.findall(r"`([^`\n]+)`", text))) for text in (ENGLISH, CHINESE)]
    assert codes[0] == codes[1]


def test_it_names_variables_that_exist() -> None:
    named = set(re.findall(r"\bMP_[A-Z_]+[A-Z]", ENGLISH))
    assert named <= {variable.name for variable in VARIABLES}
