"""Runs that several GPU tests read. The machine's processor makes the references."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..trainer.harness import Run, build_idxmap
from ..trainer.harness import train as train_on_cpu


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs a GPU."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Fail, not skip: `make test-gpu` was asked for."""
    assert torch.cuda.is_available(), "torch sees no GPU: run `python -m megatron_patch.doctor`"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of a small idxmap data set."""
    return build_idxmap(tmp_path_factory.mktemp("data") / "documents")


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, data: Path) -> str:
    """Flags that start from a checkpoint which a CPU wrote in fp32."""
    output = tmp_path_factory.mktemp("start")
    train_on_cpu(output, data, f"--train-iters 3 --save {output}/checkpoints --save-interval 3")
    return f"--load {output}/checkpoints --finetune --no-load-optim --no-load-rng"


@pytest.fixture(scope="session")
def cpu(tmp_path_factory: pytest.TempPathFactory, data: Path, start: str) -> Run:
    """20 iterations in fp32 on the processor."""
    return train_on_cpu(tmp_path_factory.mktemp("cpu"), data, start)
