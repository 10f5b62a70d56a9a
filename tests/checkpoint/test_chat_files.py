"""A finetuned base model goes to Hugging Face with the template that it was trained with, and ends its answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig

from megatron_patch.checkpoint.cli import main
from megatron_patch.data.sft.rendering.template import LLAMA3_1_TEMPLATE

from .models import SMALL, make_model

HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def base_model(folder: Path) -> Path:
    """Without a chat template; the tokens of one are in the vocabulary."""
    hf = make_model(folder / "hf", SMALL)
    (hf / "chat_template.jinja").unlink()
    tokenizer = Tokenizer.from_file(str(hf / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|begin_of_text|>", *HEADER])
    tokenizer.save(str(hf / "tokenizer.json"))
    config = json.loads((hf / "config.json").read_text()) | {"eos_token_id": 256}
    (hf / "config.json").write_text(json.dumps(config))
    return hf


def exported(folder: Path, hf: Path, plan: str) -> Path:
    run = folder / "run"
    assert main(["--source", str(hf), "--output-path", str(run / "checkpoints")]) == 0
    (run / "plan.json").write_text(plan)
    assert main(["--source", str(run), "--output-path", str(folder / "back")]) == 0
    return folder / "back"


def ends_of(folder: Path) -> list[int]:
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


@pytest.mark.parametrize("generation", ['{"eos_token_id": 256, "temperature": 0.6}', None])
def test_after_finetuning_the_folder_has_the_chat_template_and_ends_turns(
    tmp_path: Path, generation: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    hf = base_model(tmp_path)
    (hf / "generation_config.json").unlink()
    if generation is not None:
        (hf / "generation_config.json").write_text(generation)
    back = exported(tmp_path, hf, '{"version": 2, "values": {"SFT": true}}')
    tokenizer = AutoTokenizer.from_pretrained(back)
    assert ends_of(back) == [256, tokenizer.convert_tokens_to_ids("<|eot_id|>")]
    assert (back / "chat_template.jinja").read_text() == LLAMA3_1_TEMPLATE.read_text()
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert tokenizer.apply_chat_template(said, tokenize=False).endswith("b<|eot_id|>")
    assert "<|eot_id|>" in capsys.readouterr().out
    assert main(["verify", str(back)]) == 0


def test_a_model_that_says_it_stays_as_it_is(tmp_path: Path) -> None:
    hf = base_model(tmp_path)
    (hf / "chat_template.jinja").write_text(LLAMA3_1_TEMPLATE.read_text() + "\n{# its own #}")
    end = AutoTokenizer.from_pretrained(hf).convert_tokens_to_ids("<|eot_id|>")
    (hf / "generation_config.json").write_text(json.dumps({"eos_token_id": [256, end]}))
    back = exported(tmp_path, hf, '{"version": 2, "values": {"SFT": true}}')
    for name in ("chat_template.jinja", "generation_config.json"):
        assert (back / name).read_bytes() == (hf / name).read_bytes()


@pytest.mark.parametrize("plan", ['{"version": 2, "values": {"SFT": false}}', "no JSON"])
def test_after_pretraining_generation_config_stays_and_no_template_comes(tmp_path: Path, plan: str) -> None:
    hf = base_model(tmp_path)
    back = exported(tmp_path, hf, plan)
    assert not (back / "chat_template.jinja").exists()
    assert (back / "generation_config.json").read_bytes() == (hf / "generation_config.json").read_bytes()
