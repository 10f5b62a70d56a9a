"""rank_pattern and alpha_pattern: modules with a rank and an alpha of their own, within what Megatron fuses too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from megatron_patch.checkpoint.adapters import export_adapter, main, merge
from megatron_patch.peft.folder import CONFIG, WEIGHTS

from ..trainer.harness import Run, train
from .test_folder import logits
from .test_parity import EVERY_LOSS, FIRST_LOSS, LAYOUT
from .test_resume import ON
from .world import CONFIGS, FLAGS, HEAD, LAYER, STEPS, World, flops, make_adapter, make_model, peft_losses

RANKS = {"q_proj": 2, "layers.1.self_attn.k_proj": 8, "gate_proj": 3, r"layers\.[23]\.mlp\.down_proj": 1, "lm_head": 9}
ALPHAS = {"v_proj": 5, "layers.0.mlp.up_proj": 24.5}
"""All of a target, one layer of it, some layers, and what no adapter has."""


def typed(pattern: dict[str, float]) -> str:
    return json.dumps(pattern, separators=(",", ":"), sort_keys=True)  # PEFT sorts them when it saves


FLAGGED = f"{FLAGS} --lora-rank-pattern {typed(RANKS)} --lora-alpha-pattern {typed(ALPHAS)}"


def make_varied(folder: Path, data: Path, family: str) -> World:
    make_model(folder / "hf", CONFIGS[family])
    make_adapter(folder / "adapter", folder / "hf", rank_pattern=RANKS, alpha_pattern=ALPHAS)
    return World(folder=folder, data=data, family=family, flags=FLAGGED)


@pytest.fixture(scope="module")
def varied(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_varied(tmp_path_factory.mktemp("varied"), world.data, "llama")


@pytest.fixture(scope="module")
def trained(varied: World) -> Run:
    return varied.train("ours")


def test_trained_exported_and_merged_it_is_pefts(varied: World, trained: Run, tmp_path: Path) -> None:
    """What is exported has the patterns and PEFT's tensors, and PEFT over it computes what is merged."""
    export_adapter(trained.output, tmp_path / "back")
    config = json.loads((tmp_path / "back" / CONFIG).read_text())
    assert config["rank_pattern"] == RANKS and config["alpha_pattern"] == ALPHAS
    before, after = load_file(varied.adapter / WEIGHTS), load_file(tmp_path / "back" / WEIGHTS)
    assert {name: one.shape for name, one in before.items()} == {name: one.shape for name, one in after.items()}
    adapters = sum(one.numel() for one in after.values())
    assert trained.flops == pytest.approx([flops(adapters, 4 * LAYER + HEAD)] * STEPS)
    merge(trained.output, tmp_path / "merged")
    theirs = logits(varied.hf, tmp_path / "back")
    assert (theirs - logits(tmp_path / "merged")).abs().max() < 1e-5
    assert (theirs - logits(varied.hf, varied.adapter)).abs().max() > 1e-2
    again = ["merge", "--adapter", str(tmp_path / "back"), "--output-path", str(tmp_path / "again"), "--check"]
    assert main(again) == 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen2_5"])
def test_losses_and_adapters_are_pefts(world: World, tmp_path: Path, family: str) -> None:
    made = make_varied(tmp_path, world.data, family)
    run = made.train("ours")
    theirs = peft_losses(made, run.output / "cache")
    gaps = [abs(mine - other["loss"]) for mine, other in zip(run.losses, theirs, strict=True)]
    assert gaps[0] <= FIRST_LOSS and max(gaps) <= EVERY_LOSS, gaps
    export_adapter(run.output, tmp_path / "compared")
    mine, other = (load_file(tmp_path / name / WEIGHTS) for name in ("compared", "theirs"))
    assert mine.keys() == other.keys()
    assert all((mine[name] - other[name]).norm() <= 1e-4 * other[name].norm() for name in mine)


@pytest.mark.slow
def test_another_layout_and_a_resume_in_it(varied: World, trained: Run, tmp_path: Path) -> None:
    """The tensors of single layers are found by ranks of another pipeline."""
    split = "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --sequence-parallel"
    do = "--use-distributed-optimizer --dist-ckpt-optim-fully-reshardable"
    flags = f"{varied.start()} {do} --lr 2e-3 --min-lr 2e-4 --save {tmp_path}/checkpoints --save-interval 10"
    first = train(tmp_path / "first", varied.data, f"{flags} {split}", processes=4)
    assert max(abs(a - b) for a, b in zip(first.losses, trained.losses, strict=True)) <= LAYOUT
    on = f"{flags} {ON.format(tmp_path, 10)}".replace(f"--save {tmp_path}/checkpoints", "")
    second = train(tmp_path / "second", varied.data, on.replace("--save-interval 10", ""))
    assert max(abs(a - b) for a, b in zip(second.losses, trained.losses[10:], strict=True)) <= LAYOUT
