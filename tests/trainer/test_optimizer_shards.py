"""A single rank saves its optimizer without gathering: the same checkpoint as Megatron's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .harness import build_idxmap, launch, read_checkpoint, train

GATHERING = """
from megatron_patch.backend import enable

enable("cpu")
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

for name in ("sharded_param_state_fully_reshardable", "load_parameter_state_from_fully_reshardable"):
    setattr(DistributedOptimizer, name, getattr(DistributedOptimizer, name).__wrapped__)
from megatron_patch.trainer.entry import main

main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["", "--bf16"], ids=["fp32", "bf16"])
def test_the_same_checkpoint(tmp_path: Path, precision: str) -> None:
    """Every tensor, bitwise; and the run goes on from it as if it had not stopped."""
    data = build_idxmap(tmp_path / "documents")
    optimizer = f"{precision} --use-distributed-optimizer --dist-ckpt-optim-fully-reshardable --train-iters 6"
    script = tmp_path / "gathering.py"
    script.write_text(GATHERING)
    found = {}
    for name, more in (("ours", {}), ("megatrons", {"script": script})):
        output = tmp_path / name
        saving = f"{optimizer} --save {output}/checkpoints --save-interval 3"
        run = launch(output, data, saving, **more)
        assert run.returncode == 0, run.stderr
        found[name] = (read_checkpoint(output / "checkpoints" / "iter_0000003"), run.losses)
    ours, theirs = found["ours"], found["megatrons"]
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys() and any("exp_avg_sq" in key for key in ours[0])
    assert all(torch.equal(tensor, theirs[0][key]) for key, tensor in ours[0].items())
    again = tmp_path / "again"
    run = train(again, data, f"{optimizer} --load {tmp_path}/ours/checkpoints --ckpt-step 3")
    assert run.losses == ours[1][3:]
