"""Adapters to Hugging Face's PEFT and back, and merged: logits of transformers are the judge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from megatron_patch.checkpoint.adapters import export_adapter, main, merge
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.evaluation.models import prepare
from megatron_patch.peft.folder import WEIGHTS
from megatron_patch.peft.settings import PeftError

from ..trainer.harness import Run, read_checkpoint, train
from .world import FLAGS, World, make_adapter, make_model

TOKENS = torch.arange(48).view(2, 24) * 5 % 256


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def test_a_checkpoint_holds_adapters_and_their_optimizer_alone(ours: Run) -> None:
    iteration = ours.output / "checkpoints" / "iter_0000020"
    names = read_checkpoint(iteration).keys()
    assert len(names) >= 14 and all("_adapters." in name for name in names if "." in name), names
    weights = sum(file.stat().st_size for file in iteration.glob("*.distcp"))
    assert weights < 1_000_000
    assert (ours.output / "checkpoints" / "lora.json").is_file()


@pytest.fixture(scope="session")
def exported(ours: Run) -> Path:
    target = ours.output / "adapter"
    assert main(["export", "--adapter", str(ours.output), "--output-path", str(target)]) == 0
    return target


def test_peft_loads_what_is_exported_and_the_merged_folder_is_the_same(
    world: World, exported: Path, ours: Run, tmp_path: Path
) -> None:
    merge(ours.output, tmp_path / "merged")
    with_adapter, merged = logits(world.hf, exported), logits(tmp_path / "merged")
    assert (with_adapter - merged).abs().max() < 1e-5
    assert (with_adapter - logits(world.hf)).abs().max() > 1e-2
    merge(exported, tmp_path / "again", base=world.hf)
    assert torch.equal(merged, logits(tmp_path / "again"))


@pytest.mark.parametrize(
    "targets", ["q,v", *(pytest.param(rest, marks=pytest.mark.slow) for rest in ("k", "up,o", "gate,down"))]
)
def test_every_set_of_targets(world: World, tmp_path: Path, targets: str) -> None:
    """Megatron's first loss with an adapter is that of transformers with it: both names and places are right."""
    modules = [f"{target}_proj" for target in targets.split(",")]
    make_adapter(tmp_path / "adapter", world.hf, target_modules=modules)
    start = f"--hf-checkpoint {world.hf} --lora-adapter {tmp_path / 'adapter'} {FLAGS} --lora-targets {targets}"
    output = tmp_path / "run"
    train(
        output, world.data, f"{start} --train-iters 3 --lr 0 --min-lr 0 --save {output}/checkpoints --save-interval 3"
    )
    export_adapter(output, tmp_path / "back")
    before, after = load_file(tmp_path / "adapter" / WEIGHTS), load_file(tmp_path / "back" / WEIGHTS)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_another_base_is_refused(world: World, ours: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "other", seed=5)
    with pytest.raises(CheckpointError, match="not the base"):
        merge(ours.output, tmp_path / "merged", base=tmp_path / "other")
    assert not (tmp_path / "merged").exists()


def test_adapters_of_another_model_are_refused(world: World, exported: Path, tmp_path: Path) -> None:
    tensors = load_file(exported / WEIGHTS)
    name = next(name for name in tensors if "layers.3." in name)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text((exported / "adapter_config.json").read_text())
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, broken / WEIGHTS)
    with pytest.raises(PeftError, match="missing"):
        merge(broken, tmp_path / "merged", base=world.hf)


def test_an_adapter_is_evaluated_with_its_base(world: World, ours: Run, exported: Path, tmp_path: Path) -> None:
    """What evaluate.sh gives to the harness, of a run and of a folder of PEFT."""
    of_run = prepare(ours.output, cache=tmp_path)
    of_peft = prepare(exported, world.hf, cache=tmp_path)
    assert of_run.folder != of_peft.folder
    assert torch.equal(logits(of_run.folder), logits(of_peft.folder))
    assert not torch.equal(logits(of_run.folder), logits(world.hf))
    assert prepare(ours.output, cache=tmp_path) == of_run
