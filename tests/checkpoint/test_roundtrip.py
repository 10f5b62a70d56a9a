"""Hugging Face -> Megatron -> Hugging Face: the same bits, the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.formats import sources
from megatron_patch.checkpoint.formats.torch_dist import TorchDistReader
from megatron_patch.checkpoint.manifest import verify

from .models import DTYPES, FAMILIES, MODELS, SMALL, make_model, megatron_layer, read_weights, same_bits


def there_and_back(folder: Path, hf: Path, *more: str) -> Path:
    assert main(["--source", str(hf), "--output-path", str(folder / "megatron"), *more]) == 0
    assert main(["--source", str(folder / "megatron"), "--output-path", str(folder / "back"), *more]) == 0
    return folder / "back"


@pytest.mark.parametrize(
    ("name", "precision"),
    [("untied", "fp32"), ("untied", "fp16"), ("untied", "bf16"), ("tied", "bf16"), ("multi head", "bf16"),
     ("multi query", "fp16"), ("Llama 2", "bf16"), ("SmolLM2", "bf16"), *((name, "bf16") for name in FAMILIES)],
)  # fmt: skip
def test_every_tensor_comes_back_bit_for_bit(
    tmp_path: Path, name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 4096)  # so that these tensors are cut into blocks and chunks too
    monkeypatch.setattr(sources, "CHUNK_BYTES", 1500)
    hf = make_model(tmp_path / "hf", MODELS[name], precision)
    back = there_and_back(tmp_path, hf)
    before, after = read_weights(hf), read_weights(back)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == DTYPES[precision]
        assert same_bits(tensor, after[key]), key
    assert verify(back) > 0
    assert verify(tmp_path / "megatron") > 0


@pytest.mark.parametrize("name", ["untied", *FAMILIES])
def test_the_checkpoint_holds_what_megatron_expects(tmp_path: Path, name: str) -> None:
    shape = MODELS[name]
    hf = make_model(tmp_path / "hf", shape)
    assert main(["--source", str(hf), "--output-path", str(tmp_path / "megatron")]) == 0
    reader = TorchDistReader(tmp_path / "megatron" / "release")
    weights = read_weights(hf)
    for layer in range(shape.num_layers):
        for name, wanted in megatron_layer(weights, shape, layer).items():
            found = torch.empty_like(wanted)
            reader.read_rows(f"decoder.layers.{name}", layer, 0, found)
            assert same_bits(found, wanted), (layer, name)


def test_everything_else_of_the_folder_comes_back(tmp_path: Path) -> None:
    hf = make_model(tmp_path / "hf", SMALL)
    (hf / "additional_chat_templates").mkdir()
    (hf / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    back = there_and_back(tmp_path, hf)
    more = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
    for name in (*more, "additional_chat_templates/tool_use.jinja"):
        assert (back / name).read_bytes() == (hf / name).read_bytes()
    assert json.loads((back / "config.json").read_text()) == json.loads((hf / "config.json").read_text())


def test_transformers_loads_what_comes_back(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    back = there_and_back(tmp_path, make_model(tmp_path / "hf", MODELS["tied"]), "--max-shard-size", "1MB")
    model, facts = AutoModelForCausalLM.from_pretrained(back, output_loading_info=True, dtype="auto")
    assert not facts["missing_keys"] and not facts["unexpected_keys"] and not facts["mismatched_keys"]
    assert model.config.tie_word_embeddings and model.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(back)("text")["input_ids"]


def test_shards_have_an_index_and_any_sharding_gives_the_same_tensors(tmp_path: Path) -> None:
    hf = make_model(tmp_path / "hf", SMALL, shard_bytes=50_000)
    assert len(list(hf.glob("*.safetensors"))) > 4
    back = there_and_back(tmp_path, hf, "--max-shard-size", "1MB")
    index = json.loads((hf / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == read_weights(hf).keys()
    assert not (back / "model.safetensors.index.json").exists()
    for key, tensor in read_weights(hf).items():
        assert same_bits(tensor, read_weights(back)[key])


def test_another_precision_is_a_cast_and_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf = make_model(tmp_path / "hf", SMALL, "fp32")
    back = there_and_back(tmp_path, hf, "--precision", "bf16")
    assert "weights in F32 are written in BF16, rounded" in capsys.readouterr().out
    for key, tensor in read_weights(hf).items():
        assert same_bits(tensor.bfloat16(), read_weights(back)[key])
    assert json.loads((back / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    hf = make_model(tmp_path / "hf", SMALL)
    for name, workers in (("one", "3"), ("two", "20")):  # 20 are several processes
        more = ["--workers", workers]
        assert main(["--source", str(hf), "--output-path", str(tmp_path / name), *more]) == 0
        assert main(["--source", str(tmp_path / name), "--output-path", str(tmp_path / f"{name}-hf"), *more]) == 0
    for kind in ("", "-hf"):
        one, two = ((tmp_path / f"{name}{kind}" / "manifest.json").read_text() for name in ("one", "two"))
        assert one == two and verify(tmp_path / f"two{kind}") > 0


def test_integrity_manifest_is_the_one_that_megatron_verifies(tmp_path: Path) -> None:
    hf = make_model(tmp_path / "hf", SMALL)
    assert main(["--source", str(hf), "--output-path", str(tmp_path / "megatron")]) == 0
    release = tmp_path / "megatron" / "release"
    found = json.loads((release / "integrity.json").read_text())
    assert found["algorithm"] == "sha256"
    assert found["files"].keys() == {file.name for file in release.iterdir()} - {"integrity.json"}
