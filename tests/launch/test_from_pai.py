"""docs/from-pai.md: its command runs as it stands, and both languages say the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.variables import VARIABLES

from .conftest import write_idxmap, write_tokenizer

QWEN3 = (
    "dsw 8B 1 8 1e-5 1e-6 128 128 bf16 1 1 1 {experts}true true true false sel {offload} "
    "100000 text text none 10000 100 out"
)
"""Pai's examples/qwen3/README.md, for a dense size."""
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


def refusal(script: str, line: str, environ: dict[str, str]) -> str:
    """What a script of ours says to a command of theirs."""
    ours = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        ["sh", str(REPOSITORY / "examples" / script), *line.split()],
        env=ours | environ | {"PYTHON": sys.executable, "MP_LANG": "en", "DRY_RUN": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2, done.stdout
    return done.stderr


def test_qwen3_with_its_27_values(surroundings: Callable[..., dict[str, str]]) -> None:
    """Each thing that is other there is named where it stands, not where the list ends."""
    typed = QWEN3.format(experts="1 4 ", offload="false")
    said = refusal("qwen3/run_mcore_qwen3.sh", typed, surroundings())
    assert "the 13th, ETP (1), and the 14th, EP (4)" in said
    assert "leave these two out" in said
    typed = QWEN3.format(experts="", offload="0.5").replace(" 8B ", " A3B ")
    said = refusal("qwen3/run_mcore_qwen3.sh", typed, surroundings(MP_PP0_LAYERS="10"))
    assert 'position 2 MODEL_SIZE: a mixture of experts; the models here are dense: is "A3B"; valid: tiny, 0.6B' in said
    assert "static, with MP_OPTIMIZER_OFFLOAD_FRACTION=0.5" in said
    assert "[pai-first-stage]" in said


def test_a_size_of_another_family_is_shown_as_it_was_typed(surroundings: Callable[..., dict[str, str]]) -> None:
    typed = QWEN3.format(experts="", offload="false").replace(" 8B ", " 405B ")
    said = refusal("qwen3/run_mcore_qwen3.sh", typed, surroundings())
    assert 'is "405B"' in said
    assert "auto, llama3_1-tiny" in said


def test_their_name_of_the_script_for_qwen2_5(surroundings: Callable[..., dict[str, str]]) -> None:
    said = refusal("qwen2_5/run_mcore_qwen.sh", QWEN3.format(experts="", offload="false"), surroundings())
    assert 'is "8B"; valid: tiny, 0.5B' in said


def test_their_megatron_on_pythonpath(tmp_path: Path) -> None:
    """`export PYTHONPATH=PAI-Megatron-LM-240718` in a profile: the installed megatron-core is imported all the same."""
    (tmp_path / "theirs" / "megatron" / "core").mkdir(parents=True)
    (tmp_path / "theirs" / "megatron" / "core" / "__init__.py").write_text("raise SystemExit('theirs')")
    (tmp_path / "installed" / "megatron" / "core").mkdir(parents=True)
    (tmp_path / "installed" / "megatron_core-0.19.2.dist-info").mkdir()
    path = f"{tmp_path}/theirs:{tmp_path}/installed:"
    done = subprocess.run(
        ["sh", str(REPOSITORY / "toolkits" / "python.sh"), "-c", "import os; print(os.environ['PYTHONPATH'])"],
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == f"{REPOSITORY}:{tmp_path}/installed\n"
    assert f"PYTHONPATH: {tmp_path}/theirs holds the source of another Megatron" in done.stderr


def test_variables_that_their_scripts_export(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """Nothing of the environment is taken or left without a word."""
    theirs = {"NVTE_FLASH_ATTN": "0", "CUDA_DEVICE_MAX_CONNECTIONS": "1", "NCCL_IB_DISABLE": "1", "NCCL_VERSION": "2"}
    environ = surroundings(MP_DEVICE="cuda", MP_NPROC="8", **theirs)
    plan, _, problems = make_plan(values(PR="bf16"), environ, dry_run=True)
    assert plan is not None, problems
    notes = [str(note) for note in plan.notes]
    assert "taken from your environment: NCCL_IB_DISABLE=1" in notes
    decided = "NVTE_FLASH_ATTN, CUDA_DEVICE_MAX_CONNECTIONS of your environment are not passed on: the plan decides"
    assert decided in notes


def test_one_machine_among_several(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """`dsw` typed in a DLC pod: each machine would train alone."""
    plan, _, problems = make_plan(values(), surroundings(WORLD_SIZE="2", RANK="1"), dry_run=True)
    assert plan is not None, problems
    said = (
        "ENV=dsw is this machine alone: WORLD_SIZE=2 of your environment is not read; several machines are dlc or slurm"
    )
    assert said in map(str, plan.notes)


def test_both_languages_have_the_same_commands_and_names() -> None:
    assert re.findall(r"```bash\n(.*?)```", ENGLISH, re.DOTALL) == re.findall(r"```bash\n(.*?)```", CHINESE, re.DOTALL)
    codes = [sorted(set(re.findall(r"`([^`\n]+)`", text))) for text in (ENGLISH, CHINESE)]
    assert codes[0] == codes[1]


def test_it_names_variables_that_exist() -> None:
    named = set(re.findall(r"\bMP_[A-Z0-9_]+[A-Z0-9]", ENGLISH))
    assert named <= {variable.name for variable in VARIABLES} | {"MP_PP0_LAYERS"}
