"""The trained tokenizer is one of Llama 3.1's kind, and reading it directly equals reading it with transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megatron_patch.data.tokenizers.text_tokenizer import TextTokenizer, TokenizerError, load_tokenizer
from megatron_patch.data.train_tokenizer import special_tokens

DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


@pytest.fixture(scope="module")
def hf(tokenizer_folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)


@pytest.fixture(scope="module")
def direct(tokenizer_folder: Path) -> TextTokenizer:
    return load_tokenizer(tokenizer_folder)


def texts_of(corpus: Path) -> list[str]:
    return [json.loads(line)["text"] for line in corpus.read_text().splitlines()]


def test_special_tokens_stand_where_llama_3_1_has_them() -> None:
    tokens = special_tokens()
    assert len(tokens) == len(set(tokens)) == 256
    # https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/tokenizer_config.json, ids minus 128000
    known = {
        0: "<|begin_of_text|>",
        1: "<|end_of_text|>",
        2: "<|reserved_special_token_0|>",
        3: "<|reserved_special_token_1|>",
        4: "<|finetune_right_pad_id|>",
        5: "<|reserved_special_token_2|>",
        6: "<|start_header_id|>",
        7: "<|end_header_id|>",
        8: "<|eom_id|>",
        9: "<|eot_id|>",
        10: "<|python_tag|>",
        11: "<|reserved_special_token_3|>",
        255: "<|reserved_special_token_247|>",
    }
    assert {i: tokens[i] for i in known} == known


def test_loads_in_transformers_and_agrees_with_the_direct_way(hf, direct: TextTokenizer, corpus: Path) -> None:
    texts = texts_of(corpus)
    assert str(direct.note) == "tokenizer.json as it is"
    assert direct.encode(texts) == [hf(text).input_ids for text in texts]
    assert (direct.vocab_size, direct.eod_id) == (len(hf), hf.eos_token_id) == (1024, 1024 - 256 + 1)


def test_bos_first_and_text_comes_back(hf, direct: TextTokenizer, corpus: Path) -> None:
    for text, ids in zip(texts_of(corpus), direct.encode(texts_of(corpus)), strict=True):
        assert ids[0] == hf.bos_token_id
        assert hf.decode(ids[1:]) == text


def test_megatron_sees_the_same_eod(tokenizer_folder: Path, direct: TextTokenizer) -> None:
    from megatron.core.tokenizers.text.libraries.huggingface_tokenizer import HuggingFaceTokenizer

    megatron = HuggingFaceTokenizer(str(tokenizer_folder))
    assert (megatron.eod, megatron.vocab_size) == (direct.eod_id, direct.vocab_size)
    assert [megatron.text_to_ids("def f(x): pass")] == direct.encode(["def f(x): pass"])


@pytest.mark.parametrize(
    "change",
    [{"tokenizer_class": "GPT2TokenizerFast"}, {"add_bos_token": False}, {"add_eos_token": True}],
    ids=lambda change: next(iter(change)),
)
def test_what_transformers_would_change_goes_through_transformers(
    tokenizer_folder: Path, tmp_path: Path, corpus: Path, change: dict[str, object]
) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "changed"
    shutil.copytree(tokenizer_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | change
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    assert next(iter(change)) in str(tokenizer.note)
    reference = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = texts_of(corpus)
    assert tokenizer.encode(texts) == [reference(text).input_ids for text in texts]


@pytest.mark.parametrize("broken", ["absent", "no config", "bad json", "bad tokenizer", "eos without a text"])
def test_a_folder_without_a_tokenizer_is_refused(tokenizer_folder: Path, tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tokenizer_folder, folder)
    config = folder / "tokenizer_config.json"
    match broken:
        case "absent":
            shutil.rmtree(folder)
        case "no config":
            config.unlink()
        case "bad json":
            config.write_text("{")
        case "bad tokenizer":
            (folder / "tokenizer.json").write_text("{}")
        case "eos without a text":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": {"id": 3}}))
    with pytest.raises(TokenizerError):
        load_tokenizer(folder)


def header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def test_chat_template_of_a_conversation(hf) -> None:
    messages = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello.\n"},
        {"role": "user", "content": "Bye"},
    ]
    wanted = (
        f"<|begin_of_text|>{header('system')}{DATES}Be brief.<|eot_id|>{header('user')}Hi<|eot_id|>"
        f"{header('assistant')}Hello.<|eot_id|>{header('user')}Bye<|eot_id|>"
    )
    assert hf.apply_chat_template(messages, tokenize=False) == wanted
    with_prompt = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert with_prompt == wanted + header("assistant")
    # Without a system message the system turn still shows the dates.
    bare = hf.apply_chat_template(messages[1:2], tokenize=False, date_string="01 Jan 2026")
    assert bare == (
        f"<|begin_of_text|>{header('system')}Cutting Knowledge Date: December 2023\nToday Date: 01 Jan 2026\n\n"
        f"<|eot_id|>{header('user')}Hi<|eot_id|>"
    )


def test_chat_template_of_a_function_call(hf) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"a": 1}}}
    call = {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
    }
    messages = [{"role": "user", "content": "1+1?"}, call, {"role": "tool", "content": {"sum": 2}}]
    shown = json.dumps(tool, indent=4)
    wanted = (
        f"<|begin_of_text|>{header('system')}Environment: ipython\n{DATES}<|eot_id|>{header('user')}"
        "Given the following functions, please respond with a JSON for a function call with its proper arguments "
        'that best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": '
        f"dictionary of argument name and its value}}.Do not use variables.\n\n{shown}\n\n1+1?<|eot_id|>"
        f'{header("assistant")}{{"name": "add", "parameters": {{"a": 1}}}}<|eot_id|>'
        f'{header("ipython")}{{"sum": 2}}<|eot_id|>'
    )
    assert hf.apply_chat_template(messages, tools=[tool], tokenize=False) == wanted
    call["tool_calls"] *= 2
    with pytest.raises(Exception, match="one function at a time"):
        hf.apply_chat_template(messages, tools=[tool], tokenize=False)
