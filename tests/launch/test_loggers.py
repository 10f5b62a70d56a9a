"""MP_LOGGERS before anything starts: which flags it makes, and what is said of a package that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.driver import main


@pytest.mark.parametrize(
    ("loggers", "has", "lacks"),
    [
        (None, ("--tensorboard-dir", "--wandb-project"), ("--loggers",)),
        ("tensorboard", ("--tensorboard-dir",), ("--wandb-project",)),
        ("mlflow", ("--loggers mlflow",), ("--tensorboard-dir", "--wandb-project")),
        ("tensorboard, mlflow,wandb", ("--loggers tensorboard,mlflow,wandb", "--wandb-project"), ()),
        ("none", (), ("--tensorboard-dir", "--wandb-project")),
    ],
)
def test_exactly_what_is_named_logs(
    loggers: str | None,
    has: tuple[str, ...],
    lacks: tuple[str, ...],
    world: Path,
    values: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(world)
    environ = {"MP_TOKENIZER_PATH": "tokenizer", "MP_DEVICE": "cpu", "WANDB_API_KEY": "k3y"}
    environ |= {"MP_LOGGERS": loggers} if loggers else {}
    assert main([*values(), "--dry-run"], environ) == 0
    said = capsys.readouterr().out
    assert [flag for flag in has if flag not in said] == []
    assert [flag for flag in lacks if flag in said] == []
    assert "k3y" not in said


def test_a_missing_package_is_named_before_launch(
    world: Path, values: Callable[..., list[str]], tmp_path: Path
) -> None:
    """In a Python without site-packages, so that nothing is installed."""
    code = "import os, sys; from megatron_patch.launch.driver import main; sys.exit(main(sys.argv[1:], os.environ))"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "MP_TOKENIZER_PATH": "tokenizer"}
    environ |= {"MP_LOGGERS": "mlflow,trackio", "MP_DEVICE": "cpu", "MP_LANG": "en"}
    command = [sys.executable, "-S", "-c", code, *values(OUTPUT_BASEPATH=str(tmp_path / "out"))]
    done = subprocess.run(command, cwd=world, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "pip install mlflow-skinny" in done.stderr and "pip install trackio" in done.stderr
    assert not (tmp_path / "out").exists()
