"""What is frozen has no gradient, no optimizer state and no fp32 copy, and does not move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..trainer.harness import read_checkpoint, train
from .world import World

PP2 = "--pipeline-model-parallel-size 2"
DO = "--use-distributed-optimizer --dist-ckpt-optim-fully-reshardable "
AC = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"


@pytest.mark.parametrize(
    ("processes", "flags"),
    [
        pytest.param(1, DO + AC, id="AC"),
        pytest.param(2, DO + PP2, id="PP2", marks=pytest.mark.slow),
        pytest.param(2, DO, id="DO", marks=pytest.mark.slow),
    ],
)
def test_named_parts_do_not_move(world: World, tmp_path: Path, processes: int, flags: str) -> None:
    save = f"--save {tmp_path}/checkpoints --save-interval 3 --train-iters 3 --lr 1e-2 --bf16"
    freeze = "--freeze embedding,norms,layers.0"
    run = train(tmp_path, world.data, f"--hf-checkpoint {world.hf} {freeze} {save} {flags}", processes=processes)
    assert len(run.losses) == 3
    on = f" --load {tmp_path}/checkpoints --ckpt-step 3 --override-opt-param-scheduler --train-iters 4"
    resume = f"{freeze} {save} {flags} {on}"
    assert len(train(tmp_path, world.data, resume, processes=processes).losses) == 4
    after = read_checkpoint(tmp_path / "checkpoints" / "iter_0000003")
    from safetensors.torch import load_file

    before = load_file(world.hf / "model.safetensors")
    same = {name: before[name].bfloat16() for name in before}
    assert torch.equal(after["embedding.word_embeddings.weight"], same["model.embed_tokens.weight"])
    assert torch.equal(after["decoder.final_layernorm.weight"], same["model.norm.weight"])
    for layer in range(4):
        down = after["decoder.layers.mlp.linear_fc2.weight"][layer]
        assert torch.equal(down, same[f"model.layers.{layer}.mlp.down_proj.weight"]) is (layer == 0)
    assert not torch.equal(after["output_layer.weight"], same["lm_head.weight"])
    state = [name for name in after if name.startswith("optimizer.")]
    assert state and not any("embedding" in name or "norm" in name for name in state)
