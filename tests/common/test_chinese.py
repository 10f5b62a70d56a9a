"""Disks, devices, damaged plans and foreign adapters in Chinese, as processes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SAYS = {
    "a full disk": (
        "from megatron_patch.common.terminal import guard; guard(); open('x', 'wb', 0).write(bytes(30000)) < 30000 "
        "and open('x', 'ab', 0).write(b'1')",
        "错误：无法写入 ",
    ),
    "a plan of a later version": (
        "from pathlib import Path; from megatron_patch.runs.folder import *\n"
        "Path('plan.json').write_text('{\"version\": 9}')\n"
        "try: read_plan(Path())\nexcept PlanError as error: print(error.localized())",
        "plan.json：没有使用：version 9 属于更新的 megatron_patch；这一版最多读到 2",
    ),
    "a plan that is cut": (
        "from pathlib import Path; from megatron_patch.runs.folder import *\n"
        "Path('plan.json').write_text('{')\n"
        "try: read_plan(Path())\nexcept PlanError as error: print(error.localized())",
        "plan.json：没有使用：不是 JSON：第 1 行第 2 列：此处应有双引号括起的键",
    ),
    "adapters of another kind": (
        "from pathlib import Path; from megatron_patch.peft.folder import *\n"
        'known = \'"peft_type": "LORA", "lora_alpha": 8, "target_modules": ["q_proj"]\'\n'
        'Path(CONFIG).write_text(\'{"r": 0, "use_dora": true, \' + known + "}")\n'
        "try: settings_of(Path())\nexcept PeftError as error: print(error.localized())",
        "adapter_config.json：use_dora 为 True，这里只能是 False；adapter_config.json：r 为 0，不是不小于 1 的整数",
    ),
    "an unknown device": (
        "from megatron_patch.backend import *\ntry: enable('tpu')\n"
        "except BackendError as error: print(error.localized())",
        "设备为 'tpu'；可用：cpu、cuda",
    ),
}


@pytest.mark.parametrize("name", SAYS)
def test_what_stops_a_tool_is_said_in_chinese(tmp_path: Path, name: str) -> None:
    program, said = SAYS[name]
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY), "MP_LANG": "zh"}, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)), check=False,
    )  # fmt: skip
    shown = done.stdout + done.stderr
    assert shown.startswith(said) and "Traceback" not in shown, shown
    if name == "a full disk":
        assert "文件过大；这里每个文件最多 20,000 字节（ulimit -f）" in shown
