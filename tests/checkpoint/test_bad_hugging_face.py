"""Everything that can be wrong with a Hugging Face folder: refused with exit 2, named, and nothing is left behind."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.hf_start import load_hf_into

from .damage import Attack, Change, edit, flip, refused, truncate
from .models import SMALL, make_model, read_weights, same_bits

INDEX, SHARD = "model.safetensors.index.json", "model-00002-of-"
Q = "model.layers.1.self_attn.q_proj.weight"


def shard(folder: Path) -> Path:
    return next(folder.glob(f"{SHARD}*"))


def set_value(folder: Path, name: str, value: float) -> None:
    file = next(f for f in sorted(folder.glob("*.safetensors")) if name in load_file(f))
    tensors = load_file(file)
    tensors[name].view(-1)[70 % tensors[name].numel()] = value
    save_file(tensors, file)


def rename(folder: Path, name: str, other: str) -> None:
    """A tensor under another name, in file and index."""
    file = next(f for f in sorted(folder.glob("*.safetensors")) if name in load_file(f))
    tensors = load_file(file)
    tensors[other] = tensors.pop(name)
    save_file(tensors, file)
    edit(folder / INDEX, lambda c: c["weight_map"].update({other: c["weight_map"].pop(name)}))


BAD_HF: dict[str, tuple[Change, str]] = {
    "a shard is missing": (lambda f: shard(f).unlink(), "missing; model.safetensors.index.json names it"),
    "the index is not JSON": (lambda f: (f / INDEX).write_text("{"), "not a safetensors index"),
    "the index has no map": (lambda f: (f / INDEX).write_text("{}"), "not a safetensors index"),
    "the index is wrong": (
        lambda f: edit(f / INDEX, lambda c: c["weight_map"].update({Q: c["weight_map"]["lm_head.weight"]})),
        f"says that it holds {Q}, and it does not",
    ),
    "the index leads elsewhere": (
        lambda f: edit(f / INDEX, lambda c: c["weight_map"].update({Q: "../../etc/passwd"})),
        "../../etc/passwd: missing",
    ),
    "one file beside the shards": (
        lambda f: shutil.copy(shard(f), f / "model.safetensors"),
        "both model.safetensors and model.safetensors.index.json, of which transformers reads the former",
    ),
    "a shard is truncated": (lambda f: truncate(shard(f), 100), "truncated"),
    "a shard is too long": (lambda f: shard(f).write_bytes(shard(f).read_bytes() + b"x"), "too long"),
    "a shard is empty": (lambda f: shard(f).write_bytes(b""), "not a whole safetensors file"),
    "a header is longer than its file": (
        lambda f: shard(f).write_bytes(struct.pack("<Q", 1 << 60) + b"{}"),
        "not a whole safetensors file",
    ),
    "a header is damaged": (lambda f: shard(f).write_bytes(struct.pack("<Q", 8) + b"notjson!"), "header is damaged"),
    "NaN in a weight": (lambda f: set_value(f, Q, float("nan")), f"{Q} has a value that is NaN, in row 1"),
    "infinity in a weight": (lambda f: set_value(f, Q, float("-inf")), f"{Q} has a value that is infinite, in row 1"),
    "NaN in a norm": (lambda f: set_value(f, "model.norm.weight", float("nan")), "that is NaN, in row 6"),
    "a tensor is missing": (lambda f: rename(f, Q, "model.layers.1.self_attn.Q_proj.weight"), f"{Q} is missing"),
    "a tensor too many": (
        lambda f: rename(f, Q, "model.layers.1.self_attn.q_proj.bias"),
        "q_proj.bias is not a weight of this architecture",
    ),
    "config.json is missing": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config.json is not JSON": (lambda f: (f / "config.json").write_text("no"), "not JSON"),
    "another architecture": (
        lambda f: edit(f / "config.json", lambda c: c.update(model_type="mixtral")),
        "model_type is 'mixtral'; it must be one of llama",
    ),
    "a configuration that disagrees with the tensors": (
        lambda f: edit(f / "config.json", lambda c: c.update(intermediate_size=128)),
        "gate_proj.weight is [96, 64], config.json means [128, 64]",
    ),
    "a layer too many": (lambda f: edit(f / "config.json", lambda c: c.update(num_hidden_layers=5)), "is missing"),
    "a layer too few": (
        lambda f: edit(f / "config.json", lambda c: c.update(num_hidden_layers=3)),
        "model.layers.3.input_layernorm.weight is not a weight of this architecture",
    ),
    "biases": (lambda f: edit(f / "config.json", lambda c: c.update(attention_bias=True)), "attention_bias is True"),
    "another RoPE scaling": (
        lambda f: edit(f / "config.json", lambda c: c["rope_scaling"].update(rope_type="linear")),
        "rope_type is 'linear'; it must be one of default, llama3, yarn, dynamic",
    ),
    "a RoPE fact that Megatron has as a constant": (
        lambda f: edit(f / "config.json", lambda c: c["rope_scaling"].update(original_max_position_embeddings=4096)),
        "original_max_position_embeddings is 4096; it must be 8192, a constant in Megatron 0.19.2",
    ),
    "ties that are none": (
        lambda f: edit(f / "config.json", lambda c: c.update(tie_word_embeddings=True)),
        "ties the embeddings, but lm_head.weight is not model.embed_tokens.weight",
    ),
}


@pytest.mark.parametrize("name", BAD_HF)
def test_a_bad_hugging_face_folder(good: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, said = BAD_HF[name]
    shutil.copytree(good / "hf", tmp_path / "hf")
    change(tmp_path / "hf")
    assert said in refused(tmp_path, tmp_path / "hf", capsys)


def test_a_direct_start_refuses_ties_that_are_none(good: Path, tmp_path: Path) -> None:
    """It would train without the head that is stored."""
    shutil.copytree(good / "hf", tmp_path / "hf")
    BAD_HF["ties that are none"][0](tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"ties the embeddings, but lm_head\.weight is not"):
        load_hf_into([], tmp_path / "hf")


def test_all_problems_are_named_at_once(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(good / "hf", tmp_path / "hf")
    for number in (1, 3):
        next((tmp_path / "hf").glob(f"model-0000{number}-of-*")).unlink()
    said = refused(tmp_path, tmp_path / "hf", capsys)
    assert "2 problems" in said and "model-00001-of" in said and "model-00003-of" in said


def test_the_named_size_must_be_what_the_checkpoint_is(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(tmp_path, good / "hf", capsys, "--model-name", "tiny")
    assert "hf/config.json: not the architecture of --model-name tiny: hidden_size 64 (not 256), " in said
    assert "head_dim 16 (not 32)" in said


def test_overflow_of_a_cast(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf = make_model(tmp_path / "hf", SMALL, "fp32")
    set_value(hf, Q, 1e6)
    assert f"{Q} has a value that is infinite in torch.float16" in refused(tmp_path, hf, capsys, "--precision", "fp16")


def as_pickle(hf: Path, folder: Path, more: object = None) -> Path:
    shutil.copytree(hf, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    torch.save(read_weights(hf) | ({"attack": more} if more else {}), folder / "pytorch_model.bin")
    return folder


def test_a_pickle_is_refused_and_with_the_flag_is_read(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = as_pickle(good / "hf", tmp_path / "hf")
    assert "--allow-pickle" in refused(tmp_path, folder, capsys)
    assert main(["--source", str(folder), "--output-path", str(tmp_path / "one"), "--allow-pickle"]) == 0
    assert main(["--source", str(tmp_path / "one"), "--output-path", str(tmp_path / "back")]) == 0
    after = read_weights(tmp_path / "back")
    assert all(same_bits(tensor, after[name]) for name, tensor in read_weights(good / "hf").items())


def test_a_pickle_that_attacks_runs_nothing(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = as_pickle(good / "hf", tmp_path / "hf", Attack(tmp_path / "ran"))
    assert "refused by torch's weights_only loader" in refused(tmp_path, folder, capsys, "--allow-pickle")
    assert not (tmp_path / "ran").exists()


def test_a_hugging_face_folder_of_ours_is_held_against_its_manifest(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back = tmp_path / "back"
    assert main(["--source", str(good / "megatron"), "--output-path", str(back)]) == 0
    file = max(back.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    flip(file, file.stat().st_size // 2)
    assert f"{file.name}: its SHA-256" in refused(tmp_path, back, capsys)


@pytest.mark.parametrize(
    ("tp", "pp", "said"),
    [
        (3, 1, "--tp is 3: 8 attention heads do not divide by it"),
        (1, 5, "--pp is 5: of 4 layers the last stage would get none"),
        (16, 1, "--tp is 16: 8 attention heads do not divide by it"),
    ],
)
def test_a_layout_that_megatron_cannot_have(
    good: Path, tmp_path: Path, tp: int, pp: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(tmp_path, good / "hf", capsys, "--check", "--tp", str(tp), "--pp", str(pp))
