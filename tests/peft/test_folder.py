"""Adapters to Hugging Face's PEFT and back, and merged: logits of transformers are the judge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from megatron_patch.checkpoint import adapters
from megatron_patch.checkpoint.adapters import Adapter, export_adapter, main, merge
from megatron_patch.checkpoint.cli import main as convert
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.export import export_hf
from megatron_patch.checkpoint.hf_model import hf_model_of
from megatron_patch.peft.base import BaseProblem, read_record, record_base, settings_of_record
from megatron_patch.peft.folder import CONFIG, PICKLED, WEIGHTS, key, other_base, settings_of
from megatron_patch.peft.settings import PeftError

from ..trainer.harness import Run, read_checkpoint, train
from .world import CONFIGS, FLAGS, World, make_adapter, make_model

SOME_LAYERS = {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 1]}
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


def test_a_base_that_was_moved(world: World, ours: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A merge says what would be right, and a run that goes on from the new place keeps it: merges find it there."""
    run, old, new = tmp_path / "run", tmp_path / "old", tmp_path / "new"
    shutil.copytree(ours.output, run)
    shutil.copytree(world.hf, new)
    record = run / "checkpoints" / "lora.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"base": str(old)}))
    asked = ["merge", "--adapter", str(run), "--output-path", str(tmp_path / "merged")]
    assert main(asked) == 2
    assert f"{old}: the base of these adapters lay there, and does not now: `--base FOLDER`" in capsys.readouterr().err
    settings = settings_of_record(read_record(record.parent))
    record_base(record.parent, settings, new, resuming=True)
    assert json.loads(record.read_text())["base"] == str(new)
    assert main(asked) == 0


def test_a_base_of_another_name_is_told(
    world: World, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEFT writes no checksum: a base that is named otherwise is taken, and said."""
    theirs = tmp_path / "theirs"
    shutil.copytree(exported, theirs)
    merge(theirs, tmp_path / "same", base=world.hf)
    assert "names" not in capsys.readouterr().out
    config = json.loads((theirs / "adapter_config.json").read_text())
    (theirs / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "somebody/another"}))
    merge(theirs, tmp_path / "merged", base=world.hf)
    assert f"adapter_config.json names somebody/another as its base, and {world.hf} is given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("told", "base", "differs"),
    [
        ("meta-llama/Llama-3.1-8B", "/models/llama-3.1-8b", False),
        ("meta-llama/Llama-3.1-8B", "/cache/models--meta-llama--Llama-3.1-8B/snapshots/0e9e39f", False),
        ("meta-llama/Llama-3.1-8B", "/models/Llama-3.1-8B-Instruct", True),
        ("/runs/a/hf", "/runs/b/hf", True),
        ("/runs/a/../b/hf", "/runs/b/hf", False),
        (None, "/models/any", False),
        ("", "/models/any", False),
    ],
)
def test_which_names_of_a_base_are_the_same(told: str | None, base: str, differs: bool, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": told}))
    assert (other_base(tmp_path, base) is not None) is differs


def test_a_run_without_adapters(tmp_path: Path) -> None:
    """Said as it is; and nobody waits for Megatron, or reads its warnings, to hear it."""
    (tmp_path / "checkpoints" / "iter_0000002").mkdir(parents=True)
    with pytest.raises(BaseProblem, match=r"holds no adapters, there is no lora\.json$"):
        read_record(tmp_path / "checkpoints")
    code = (
        "import sys, megatron_patch.checkpoint.adapters; print([m for m in sys.modules if m.startswith('megatron.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_adapters_are_not_converted_as_a_model(ours: Run, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"LoRA adapters alone.*merge"):
        export_hf(ours.output, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_adapters_of_another_model_are_refused(world: World, exported: Path, tmp_path: Path) -> None:
    tensors = load_file(exported / WEIGHTS)
    name = next(name for name in tensors if "layers.3." in name)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text((exported / "adapter_config.json").read_text())
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, broken / WEIGHTS)
    with pytest.raises(PeftError, match="missing"):
        merge(broken, tmp_path / "merged", base=world.hf)


def broken_alpha(adapter: Adapter) -> Adapter:
    return replace(adapter, settings=replace(adapter.settings, alpha=adapter.settings.alpha / 2))


def broken_layer(adapter: Adapter) -> Adapter:
    return replace(adapter, whole={**adapter.whole, 2: adapter.whole[3]})


def broken_k_and_v(adapter: Adapter) -> Adapter:
    swapped = {n: {**pairs, "k": pairs["v"], "v": pairs["k"]} for n, pairs in adapter.whole.items()}
    return replace(adapter, whole=swapped)


@pytest.mark.parametrize(("broken", "layer"), [(broken_alpha, 0), (broken_layer, 2), (broken_k_and_v, 0)])
def test_the_layer_check_sees_a_broken_merge(
    ours: Run, tmp_path: Path, broken: Callable[[Adapter], Adapter], layer: int, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """And names the first layer that is wrong although its input was right."""
    original = adapters.MergedSource
    monkeypatch.setattr(adapters, "MergedSource", lambda source, adapter: original(source, broken(adapter)))
    command = ["merge", "--adapter", str(ours.output), "--output-path", str(tmp_path / "merged"), "--check"]
    assert main(command) == 1
    found = json.loads((tmp_path / "merged" / "check.json").read_text())
    assert not found["passed"] and found["first_failure"]["layer"] == layer
    assert "check FAILED" in capsys.readouterr().out


def test_the_layer_check_passes_what_is_merged_right(ours: Run, tmp_path: Path) -> None:
    command = ["merge", "--adapter", str(ours.output), "--output-path", str(tmp_path / "merged"), "--check"]
    assert main(command) == 0
    assert json.loads((tmp_path / "merged" / "check.json").read_text())["passed"]
    assert (tmp_path / "merged" / "check.png").is_file()


def test_in_16_bits_the_check_still_tells_right_from_wrong(
    world: World, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AutoModelForCausalLM.from_pretrained(world.hf, dtype=torch.bfloat16).save_pretrained(tmp_path / "bf16")
    command = ["merge", "--adapter", str(exported), "--base", str(tmp_path / "bf16"), "--check", "--output-path"]
    assert main([*command, str(tmp_path / "right")]) == 0
    original = adapters.MergedSource
    monkeypatch.setattr(adapters, "MergedSource", lambda source, adapter: original(source, broken_alpha(adapter)))
    assert main([*command, str(tmp_path / "wrong")]) == 1


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3", marks=pytest.mark.slow), "qwen2_5"])
def test_a_base_in_megatrons_form_merges_to_the_same_bytes(tmp_path: Path, family: str) -> None:
    make_model(tmp_path / "hf", CONFIGS[family])
    make_adapter(tmp_path / "adapter", tmp_path / "hf")
    assert convert(["--source", str(tmp_path / "hf"), "--output-path", str(tmp_path / "mcore")]) == 0
    for form in ("hf", "mcore"):
        merge(tmp_path / "adapter", tmp_path / f"merged-{form}", base=tmp_path / form)
    one, other = (load_file(tmp_path / f"merged-{form}" / "model.safetensors") for form in ("hf", "mcore"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "merged-mcore" / "config.json").is_file()


def test_an_adapter_is_evaluated_with_its_base(world: World, ours: Run, exported: Path, tmp_path: Path) -> None:
    """What evaluate.sh gives to the harness, of a run and of a folder of PEFT."""
    of_run = hf_model_of(ours.output, cache=tmp_path)
    of_peft = hf_model_of(exported, world.hf, cache=tmp_path)
    assert of_run.folder != of_peft.folder
    assert torch.equal(logits(of_run.folder), logits(of_peft.folder))
    assert not torch.equal(logits(of_run.folder), logits(world.hf))
    assert hf_model_of(ours.output, cache=tmp_path) == of_run


@pytest.mark.parametrize(
    "options",
    [
        {"init_lora_weights": "orthogonal"},
        {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
        {"target_modules": r".*\.(q|v)_proj"},
        SOME_LAYERS,
        {"target_modules": ["q_proj"], "layers_to_transform": 0},
        {"target_modules": r".*(layers\.[01]\.self_attn\.q_proj|v_proj)"},
        {"target_modules": ["layers.0.self_attn.q_proj", "layers.2.mlp.up_proj", "v_proj"]},
        {"exclude_modules": r".*layers\.0\..*"},
        {"use_rslora": True, "rank_pattern": {"q_proj": 9}, "alpha_pattern": {"k_proj": 3}},
    ],
)
def test_what_peft_computes_is_what_is_merged(world: World, tmp_path: Path, options: dict[str, object]) -> None:
    make_adapter(tmp_path / "adapter", world.hf, **options)
    merge(tmp_path / "adapter", tmp_path / "merged", base=world.hf)
    assert (logits(world.hf, tmp_path / "adapter") - logits(tmp_path / "merged")).abs().max() < 1e-5


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_for_which_peft_changes_the_base_is_refused(world: World, tmp_path: Path, start: str) -> None:
    """Merged into the base as it is, it would be another model than the one that was trained."""
    make_adapter(tmp_path / "adapter", world.hf, init_lora_weights=start)
    with pytest.raises(PeftError, match=f"init_lora_weights is '{start}'") as caught:
        merge(tmp_path / "adapter", tmp_path / "merged", base=world.hf)
    assert caught.value.messages[0].told.code == "peft-base-changed" and not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        ({"alora_invocation_tokens": [1, 2]}, ["peft-unknown"]),  # adapters from those tokens on
        ({"kasa_config": {"beta": 1.0}, "use_dora": True}, ["peft-unknown", "peft-value"]),
        ({"lorap_emb_lr": 1e-6, "lora_dtype": "float32", "alora_invocation_tokens": None}, []),  # ms-swift's
    ],
)
def test_what_an_adapter_says_and_nobody_here_knows(
    world: World, tmp_path: Path, said: dict[str, object], codes: list[str]
) -> None:
    make_adapter(tmp_path / "adapter", world.hf)
    config = tmp_path / "adapter" / CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | said))
    if not codes:
        settings_of(tmp_path / "adapter")
        return
    with pytest.raises(PeftError) as caught:
        settings_of(tmp_path / "adapter")
    assert sorted(message.told.code for message in caught.value.messages) == codes


Tensors = dict[str, torch.Tensor]
ONE = key(1, "q", "A")


def rewrite(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        tensors = change(load_file(folder / WEIGHTS))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)

    return act


def say(**told: object) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | told))

    return act


def cut(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 8)


def pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / PICKLED)
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("options", "broken", "code"),
    [
        ({}, rewrite(lambda all_: {n: t for n, t in all_.items() if n != ONE}), "peft-shape"),
        ({}, rewrite(lambda all_: all_ | {ONE: all_[ONE].t()}), "peft-shape"),
        ({}, rewrite(lambda all_: all_ | {"base_model.model.lm_head.weight": torch.zeros(256, 64)}), "peft-foreign"),
        ({}, rewrite(lambda all_: {n: t for n, t in all_.items() if "layers.3." not in n}), "peft-shape"),
        (SOME_LAYERS, rewrite(lambda all_: {n: t for n, t in all_.items() if "layers.1." not in n}), "peft-shape"),
        (SOME_LAYERS, say(layers_to_transform=[0]), "peft-foreign"),
        (SOME_LAYERS, say(layers_to_transform=["0"]), "peft-layers"),
        ({}, say(target_modules=".*(q_proj"), "peft-expression"),
        ({}, say(exclude_modules=[1]), "peft-names"),
        ({"target_modules": ["q_proj", "lm_head"]}, None, "peft-modules"),
        ({"modules_to_save": ["lm_head"]}, None, "peft-value"),
        ({"bias": "all"}, None, "peft-value"),
        ({}, rewrite(lambda all_: all_ | {ONE: all_[ONE] / 0}), "peft-not-finite"),
        ({}, rewrite(lambda all_: {n: t.to(torch.int8) for n, t in all_.items()}), "peft-types"),
        ({}, cut, "peft-length"),
        ({}, pickle, "peft-pickled"),
        ({}, say(r=True), "peft-rank"),
        ({}, say(lora_alpha="12"), "peft-alpha"),
        ({}, say(lora_alpha=0), "peft-alpha"),
        ({}, say(lora_dropout=2), "peft-dropout"),
        ({}, say(target_modules=None), "peft-targets"),
        ({}, say(rank_pattern={"q_proj": [True, False]}), "peft-pattern-whole"),
        ({}, say(rank_pattern={"q_proj": 3}), "peft-shape"),
    ],
)
def test_what_is_not_an_adapter_of_this_kind_is_refused(
    world: World, tmp_path: Path, options: dict[str, object], broken: Callable[[Path], None] | None, code: str
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(world.adapter, folder) if not options else make_adapter(folder, world.hf, **options)
    if broken:
        broken(folder)
    with pytest.raises(PeftError) as caught:
        merge(folder, tmp_path / "merged", base=world.hf)
    assert caught.value.code == code and not (tmp_path / "merged").exists()
