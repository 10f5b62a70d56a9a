"""What is frozen has no gradient, no optimizer state and no fp32 copy, and does not move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..trainer import harness
from ..trainer.harness import read_checkpoint, train
from .world import CONFIGS, HEAD, LAYER, MEGATRON, World, flops, make_model

PP2 = "--pipeline-model-parallel-size 2"
DO = "--use-distributed-optimizer --dist-ckpt-optim-fully-reshardable "
AC = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"


@pytest.mark.parametrize(
    ("processes", "layout"),
    [
        pytest.param(1, DO + AC, id="AC"),
        pytest.param(2, DO + PP2, id="PP2", marks=pytest.mark.slow),
        pytest.param(2, DO, id="DO", marks=pytest.mark.slow),
    ],
)
def test_named_parts_do_not_move(world: World, tmp_path: Path, processes: int, layout: str) -> None:
    save = f"--save {tmp_path}/checkpoints --save-interval 3 --train-iters 3 --lr 1e-2 --bf16"
    freeze = "--freeze embedding,norms,layers.0"
    run = train(tmp_path, world.data, f"--hf-checkpoint {world.hf} {freeze} {save} {layout}", processes=processes)
    assert len(run.losses) == 3
    assert run.flops == pytest.approx([flops(3 * LAYER + HEAD, LAYER)] * 3)
    on = f" --load {tmp_path}/checkpoints --ckpt-step 3 --override-opt-param-scheduler --train-iters 4"
    resume = f"{freeze} {save} {layout} {on}"
    assert len(train(tmp_path, world.data, resume, processes=processes).losses) == 4
    after = read_checkpoint(tmp_path / "checkpoints" / "iter_0000003")

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


@pytest.mark.slow
def test_a_tied_matrix_stays_on_both_ends_of_a_pipeline(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedding and head are one matrix, of which each end of a pipeline has a copy: the same steps as in one process,
    and neither copy moves."""
    monkeypatch.setattr(harness, "MODEL", MEGATRON["qwen2_5"])
    make_model(tmp_path / "hf", CONFIGS["qwen2_5"])
    runs = {}
    for name, processes, layout in (("one", 1, ""), ("pp2", 2, PP2)):
        save = f"--save {tmp_path / name}/checkpoints --save-interval 4 --train-iters 4 --lr 1e-2"
        told = f"--hf-checkpoint {tmp_path / 'hf'} --freeze embedding,head,layers.0 {save} {DO} {layout}"
        runs[name] = train(tmp_path / name, world.data, told, processes=processes)
        after = read_checkpoint(tmp_path / name / "checkpoints" / "iter_0000004")
        before = load_file(tmp_path / "hf" / "model.safetensors")["model.embed_tokens.weight"]
        ends = [value for key, value in after.items() if "word_embeddings" in key or "output_layer" in key]
        assert ends and all(torch.equal(end, before) for end in ends)
        moved = after["decoder.layers.mlp.linear_fc2.weight"][3]
        assert not torch.equal(
            moved, load_file(tmp_path / "hf" / "model.safetensors")["model.layers.3.mlp.down_proj.weight"]
        )
    for run in runs.values():
        assert run.flops == pytest.approx([flops(3 * LAYER, LAYER + HEAD)] * 4)
    assert runs["pp2"].losses == pytest.approx(runs["one"].losses, rel=1e-5)
    norms = [[line["grad_norm"] for line in run.metrics if "loss" in line] for run in runs.values()]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
