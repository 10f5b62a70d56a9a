"""docs/reference.md and docs/reference.zh-CN.md, made from the tables of positions and variables.

`UPDATE_GOLDEN=1 pytest tests/launch/test_reference.py` writes them.
"""

from __future__ import annotations

from collections.abc import Iterator

from megatron_patch.common.messages import Wording
from megatron_patch.common.values import meaning_of, shown
from megatron_patch.launch.cluster.place import CLUSTER_VARIABLES
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.variables import VARIABLES

TEXTS = {
    "en": {
        "title": "# Reference: the 25 values and the MP_ variables",
        "made": "Made from `megatron_patch/launch/config.py` and `variables/`; `--help` says the same. "
        "[简体中文](reference.zh-CN.md)",
        "positions": "## The 25 positions",
        "positions head": "| | name | meaning | valid | example |",
        "variables": "## MP_ variables",
        "set": "Set before the command. An unknown `MP_` variable is an error, with the nearest known one. "
        "A variable with a flag only passes its value on to Megatron's parser (or to ours, `trainer/arguments.py`).",
        "variables head": "| name | meaning | valid | default | flag |",
        "others": "`DRY_RUN=1` (or `--dry-run` after the 25 values) starts nothing. Under ENV=dlc also {names}.",
    },
    "zh": {
        "title": "# 参考：25 个值与 MP_ 变量",
        "made": "由 `megatron_patch/launch/config.py` 和 `variables/` 生成；与 `--help` 相同。[English](reference.md)",
        "positions": "## 25 个位置参数",
        "positions head": "| | 名称 | 含义 | 可用的值 | 例子 |",
        "variables": "## MP_ 变量",
        "set": "在命令之前设置。未知的 `MP_` 变量是错误，会给出最接近的已知变量。"
        "带有参数名的变量只是把值传给 Megatron 的（或我们的，`trainer/arguments.py`）参数解析器。",
        "variables head": "| 名称 | 含义 | 可用的值 | 默认 | 参数 |",
        "others": "`DRY_RUN=1`（或在 25 个值之后加 `--dry-run`）不启动任何任务。ENV=dlc 时还需要 {names}。",
    },
}


def reference(language: str) -> str:
    """The page as Markdown.

    Args:
        language: `en` or `zh`.
    """
    texts = TEXTS[language]
    lines = [texts["title"], "", texts["made"], "", texts["positions"], "", *_positions(language)]
    lines += ["", texts["variables"], "", texts["set"], "", *_variables(language)]
    others = ", ".join(f"`{name}`" for name in CLUSTER_VARIABLES)
    return "\n".join([*lines, "", texts["others"].format(names=others), ""])


def _positions(language: str) -> Iterator[str]:
    wording = Wording(language=language)
    yield from (TEXTS[language]["positions head"], "| --- | --- | --- | --- | --- |")
    for row in POSITIONS:
        meaning = meaning_of(row, language)
        yield _line(str(row.number), row.name, meaning, wording.text(row.kind.expects), f"`{row.example}`")


def _variables(language: str) -> Iterator[str]:
    wording = Wording(language=language)
    yield from (TEXTS[language]["variables head"], "| --- | --- | --- | --- | --- |")
    for row in VARIABLES:
        default = "" if row.default is None else f"`{shown(row.default)}`"
        flag = f"`{row.flag}`" if row.flag else ""
        meaning = meaning_of(row, language)
        yield _line(f"`{row.name}`", meaning, wording.text(row.kind.expects), default, flag)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '\\|') for cell in cells)} |"
