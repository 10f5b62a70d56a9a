"""Megatron's old per-rank files: what is written, what is refused. Reading what Megatron wrote: test_layouts.py."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.formats import sources

from .damage import Attack
from .models import FAMILIES, MODELS, SMALL, make_model, megatron_layer, rank_slice, read_weights, same_bits


@pytest.fixture(scope="module", params=["untied", "tied", "multi query", *FAMILIES])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """`hf` and `megatron`."""
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    hf = make_model(folder / "hf", MODELS[request.param])
    assert main(["--source", str(hf), "--output-path", str(folder / "megatron")]) == 0
    return request.param, folder


def per_rank(source: Path, target: Path, tp: int, pp: int) -> Path:
    layout = ["--tp", str(tp), "--pp", str(pp), "--per-rank-files"]
    assert main(["--source", str(source), "--output-path", str(target), *layout]) == 0
    return target


def load(folder: Path, pp: int, rank: int, stage: int) -> dict[str, torch.Tensor]:
    """One rank's file, by torch."""
    place = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if pp > 1 else "")
    content = torch.load(folder / "release" / place / "model_optim_rng.pt", weights_only=True)
    assert content["checkpoint_version"] == 3.0
    return content["model"]


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 2), (4, 1)])
def test_every_rank_has_the_slices_cut_by_hand(
    world: tuple[str, Path], tmp_path: Path, tp: int, pp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Hugging Face and from torch_dist alike; stages of 2 and 1 layers and more ranks than KV heads among them."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 3000)
    name, folder = world
    shape, hf = MODELS[name], read_weights(folder / "hf")
    one = per_rank(folder / "hf", tmp_path / "one", tp, pp)
    two = per_rank(folder / "megatron", tmp_path / "two", tp, pp)
    files = [json.loads((path / "manifest.json").read_text())["files"] for path in (one, two)]
    assert files[0] == files[1]
    rows = -(-SMALL.vocab_size // (128 * tp)) * 128 * tp
    head = hf["model.embed_tokens.weight" if shape.tie_embeddings else "lm_head.weight"]
    for stage in range(pp):
        for rank in range(tp):
            found = load(one, pp, rank, stage)
            layers = [[0, 1], [2, 3]][stage] if pp == 2 else range(4)
            layers = [layer for layer in layers if layer < shape.num_layers]
            for local, layer in enumerate(layers):
                for key, whole in megatron_layer(hf, shape, layer).items():
                    assert same_bits(found.pop(f"decoder.layers.{local}.{key}"), rank_slice(key, whole, tp, rank)), key
            if stage == 0:
                assert same_bits(
                    found.pop("embedding.word_embeddings.weight"),
                    of_vocabulary(hf["model.embed_tokens.weight"], rows, tp, rank),
                )
            if stage == pp - 1:
                assert same_bits(found.pop("decoder.final_layernorm.weight"), hf["model.norm.weight"])
                if not shape.tie_embeddings or pp > 1:
                    assert same_bits(found.pop("output_layer.weight"), of_vocabulary(head, rows, tp, rank))
            assert not found


def of_vocabulary(tensor: torch.Tensor, rows: int, tp: int, rank: int) -> torch.Tensor:
    """A rank's rows, padded to what Megatron computes from TP by itself."""
    return torch.cat([tensor, tensor.new_zeros(rows - len(tensor), tensor.shape[1])]).chunk(tp)[rank]


def test_there_and_back_is_the_same_checkpoint(world: tuple[str, Path], tmp_path: Path) -> None:
    """torch_dist -> TP 2 PP 2 -> TP 4 PP 1 -> torch_dist: the same bytes in every file."""
    _, folder = world
    one = per_rank(folder / "megatron", tmp_path / "one", 2, 2)
    two = per_rank(one, tmp_path / "two", 4, 1)
    assert main(["--source", str(two), "--output-path", str(tmp_path / "back"), "--direction", "mcore2mcore"]) == 0
    before, after = (
        json.loads((path / "manifest.json").read_text()) for path in (folder / "megatron", tmp_path / "back")
    )
    assert before["files"] == after["files"]


def test_trained_rows_of_padding_are_kept(tmp_path: Path) -> None:
    """They are in the softmax: training moves them, and zeros would change the loss."""
    old = per_rank(make_model(tmp_path / "hf", SMALL), tmp_path / "old", 1, 1)
    file = old / "release" / "mp_rank_00" / "model_optim_rng.pt"
    content = torch.load(file, weights_only=True)
    trained = content["model"]["output_layer.weight"][SMALL.vocab_size :]
    trained.normal_()
    torch.save(content, file)
    (old / "manifest.json").unlink()
    assert main(["--source", str(old), "--output-path", str(tmp_path / "ours"), "--direction", "mcore2mcore"]) == 0
    again = per_rank(tmp_path / "ours", tmp_path / "again", 2, 1)
    found = torch.cat([load(again, 1, rank, 0)["output_layer.weight"] for rank in range(2)])
    assert same_bits(found[SMALL.vocab_size :], trained)


def test_names_of_before_megatron_core(tmp_path: Path) -> None:
    """`language_model.encoder...`, nested, with a position of its own for each name."""
    hf = make_model(tmp_path / "hf", SMALL)
    old = per_rank(hf, tmp_path / "old", 1, 1)
    file = old / "release" / "mp_rank_00" / "model_optim_rng.pt"
    content = torch.load(file, weights_only=True)
    encoder = {}
    for name, tensor in content["model"].items():
        if name.startswith("decoder."):
            for ours, theirs in OLD_NAMES.items():
                name = name.replace(ours, theirs)
            encoder[name.removeprefix("decoder.")] = tensor
    language = {
        "embedding": {"word_embeddings": {"weight": content["model"]["embedding.word_embeddings.weight"]}},
        "encoder": encoder,
        "output_layer": {"weight": content["model"]["output_layer.weight"]},
    }
    torch.save({"checkpoint_version": 3.0, "model": {"language_model": language}}, file)
    (old / "manifest.json").unlink()
    assert main(["--source", str(old), "--output-path", str(tmp_path / "back")]) == 0
    after = read_weights(tmp_path / "back")
    assert all(same_bits(tensor, after[name]) for name, tensor in read_weights(hf).items())


OLD_NAMES = {
    "self_attention.linear_qkv.layer_norm_weight": "input_norm.weight",
    "self_attention.linear_qkv.weight": "self_attention.query_key_value.weight",
    "self_attention.linear_proj.weight": "self_attention.dense.weight",
    "mlp.linear_fc1.layer_norm_weight": "post_attention_norm.weight",
    "mlp.linear_fc1.weight": "mlp.dense_h_to_4h.weight",
    "mlp.linear_fc2.weight": "mlp.dense_4h_to_h.weight",
    "final_layernorm.weight": "final_norm.weight",
}


def broken(good: Path, target: Path, what: str) -> str:
    """Damage a copy in one way; what must be said."""
    shutil.copytree(good, target)
    (target / "manifest.json").unlink()
    folder = target / "release"
    file = folder / "mp_rank_01_001" / "model_optim_rng.pt"
    if what == "a rank is missing":
        shutil.rmtree(file.parent)
        return "these have no file: (1, 1)"
    if what == "truncated":
        os.truncate(file, file.stat().st_size // 2)
        return "damaged"
    content = torch.load(file, weights_only=True)
    if what == "an attack":
        content["args"] = Attack(target.parent / "ran")
    if what == "an old version":
        content["checkpoint_version"] = 2.0
    if what == "no model":
        del content["model"]
    if what == "a layer is missing":
        content["model"] = {name: t for name, t in content["model"].items() if not name.startswith("decoder.layers.1.")}
    if what == "another shape":
        content["model"]["decoder.final_layernorm.weight"] = torch.zeros(3, dtype=torch.bfloat16)
    torch.save(content, file)
    return {
        "an attack": "refused, nothing was run: it asks for posix.system",
        "an old version": "checkpoint_version is 2.0; 3.0 is supported",
        "no model": "holds no model",
        "a layer is missing": "not every one of the 2 tensor-parallel ranks has",
        "another shape": "final_layernorm.weight differs between ranks: [64] and [3]",
    }[what]


@pytest.mark.parametrize(
    "what",
    [
        "a rank is missing",
        "truncated",
        "an attack",
        "an old version",
        "no model",
        "a layer is missing",
        "another shape",
    ],
)
def test_bad_input_is_refused(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = broken(per_rank(make_model(tmp_path / "hf", SMALL), tmp_path / "good", 2, 2), tmp_path / "bad", what)
    before = sorted(tmp_path.iterdir())
    assert main(["--source", str(tmp_path / "bad"), "--output-path", str(tmp_path / "target")]) == 2
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_check_needs_torch_dist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = per_rank(make_model(tmp_path / "hf", SMALL), tmp_path / "old", 1, 1)
    assert main(["--source", str(old), "--output-path", str(tmp_path / "target"), "--check"]) == 2
    assert "convert it to that first, with --direction mcore2mcore" in capsys.readouterr().err
