"""Tokens and masks against Hugging Face's own, whose template says itself what the assistant wrote."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer, load_chat_tokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.formats import Conversation, MalformedRow
from megatron_patch.data.sft.loss_mask import trained
from megatron_patch.data.sft.rendering.template import ChatTemplate, TemplateError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# As reasoning models do: thoughts of earlier turns disappear once there is a later one.
FORGETFUL = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>hm</think>' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIALS = ["<|im_start|>", "<|im_end|>", "</s>"]


def with_template(text: str) -> ChatTemplate:
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(text, source="of this test", named_tokens=named, special_tokens=SPECIALS)


def assistant_texts(template: ChatTemplate, messages: list[dict[str, Any]]) -> list[str]:
    rendered = template.render(Conversation(messages=messages))
    return [rendered.text[start:end] for start, end in rendered.spans]


def chat(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_tokens_and_masks_are_hugging_faces(
    tokenizer: ChatTokenizer,
    template: ChatTemplate,
    tokenizer_folder: Path,
    conversations: list[Any],
    marked_template: str,
) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert not template.marked
    ours = Encoder(tokenizer).encode([template.render(Conversation(messages=messages)) for messages in conversations])
    for messages, (tokens, turns) in zip(conversations, ours, strict=True):
        expected = theirs.apply_chat_template(
            messages, chat_template=marked_template, return_assistant_tokens_mask=True
        )
        assert tokens.tolist() == expected["input_ids"]
        assert trained(turns, "assistant").tolist() == [bool(x) for x in expected["assistant_masks"]]
        assert tokens.tolist() == theirs.apply_chat_template(messages, return_dict=False)


def test_marked_and_derived_masks_agree(
    tokenizer: ChatTokenizer, template: ChatTemplate, conversations: list[Any], marked_template: str
) -> None:
    marked = ChatTemplate(marked_template, source="", named_tokens=tokenizer.named_tokens, special_tokens=[])
    assert marked.marked
    for messages in conversations:
        assert marked.render(Conversation(messages=messages)) == template.render(Conversation(messages=messages))


def test_each_loss_trains_its_own_turns(tokenizer: ChatTokenizer, template: ChatTemplate) -> None:
    messages = [{"role": "system", "content": "S"}, *chat("first question", "first answer", "second", "last answer")]
    ((tokens, turns),) = Encoder(tokenizer).encode([template.render(Conversation(messages=messages))])

    def text(loss: str) -> str:
        return tokenizer.backend.decode(tokens[trained(turns, loss)].tolist(), skip_special_tokens=False)

    assert text("assistant") == "first answer<|eot_id|>last answer<|eot_id|>"
    assert text("last") == "last answer<|eot_id|>"
    assert trained(turns, "all").tolist() == [False] + [True] * (len(tokens) - 1)
    with pytest.raises(ValueError, match="loss is 'some'; valid: assistant, last, all"):
        trained(turns, "some")


def test_end_of_turn_is_learned_and_the_line_break_behind_it_is_not() -> None:
    template = with_template(CHATML)
    assert assistant_texts(template, chat("a", "b \n", "c", "d")) == ["b \n<|im_end|>", "d<|im_end|>"]
    assert assistant_texts(with_template(LLAMA2), chat("a", "b", "c", "d")) == [" b </s>", " d </s>"]


def test_conversations_that_begin_with_the_assistant(template: ChatTemplate) -> None:
    messages = [{"role": "assistant", "content": "Welcome!"}, *chat("a", "b")]
    assert assistant_texts(template, messages) == ["Welcome!<|eot_id|>", "b<|eot_id|>"]
    # This one fails on an empty list of messages, as Llama 3.1's published one does.
    fussy = with_template("{% if messages[0]['role'] == 'system' %}{% endif %}" + CHATML)
    assert assistant_texts(fussy, messages) == ["Welcome!<|im_end|>", "b<|im_end|>"]


def test_tools_and_tool_turns(tokenizer: ChatTokenizer, template: ChatTemplate) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {}}}
    call = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
    messages = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "12:00"},
        {"role": "assistant", "content": "Noon."},
    ]
    rendered = template.render(Conversation(messages=messages, tools=[tool]))
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        '{"name": "now", "parameters": {"zone": "UTC"}}<|eot_id|>',
        "Noon.<|eot_id|>",
    ]
    assert '"parameters": {}' in rendered.text[: rendered.spans[0][0]]


def test_a_template_that_rewrites_earlier_turns_is_masked_all_the_same() -> None:
    template = with_template(FORGETFUL)
    assert assistant_texts(template, chat("a", "b")) == ["<think>hm</think>b<|im_end|>"]
    assert assistant_texts(template, chat("a", "b", "c", "b")) == ["b<|im_end|>", "<think>hm</think>b<|im_end|>"]


def test_what_a_template_refuses_is_the_rows_fault() -> None:
    with pytest.raises(MalformedRow, match="roles must alternate"):
        with_template(LLAMA2).render(Conversation(messages=chat("a", "b")[::-1]))


def test_a_template_that_is_none_is_an_error() -> None:
    with pytest.raises(TemplateError, match="line 1"):
        with_template("{% for %}").render(Conversation(messages=chat("a", "b")))


def test_dates_do_not_change_the_tokens() -> None:
    llama3_2 = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }}" + CHATML
    )
    template = with_template(llama3_2)
    assert template.render(Conversation(messages=chat("a", "b"))).text.startswith("26 Jul 2024")
    assert not template.follows_the_calendar
    today = with_template("{{ strftime_now('%d %b %Y') }}" + CHATML)
    assert today.follows_the_calendar
    before = datetime.date.today()
    text = today.render(Conversation(messages=chat("a", "b"))).text
    assert text.startswith((f"{before:%d %b %Y}", f"{datetime.date.today():%d %b %Y}"))


def test_characters_of_several_tokens_belong_to_their_turn(tokenizer: ChatTokenizer) -> None:
    template = with_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    rendered = template.render(Conversation(messages=chat("x", "🦙🧿", "y")))
    ((tokens, turns),) = Encoder(tokenizer).encode([rendered])
    assert tokenizer.backend.decode(tokens[turns > 0].tolist()) == "🦙🧿"
    assert np.diff(np.flatnonzero(turns)).max() == 1 and (turns > 0).sum() > 2


def test_llama3_1s_template_where_the_tokenizer_has_none(tokenizer_folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    text = config.pop("chat_template")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template = ChatTemplate.of(load_chat_tokenizer(folder))
    assert template.text == text
    assert str(template.source) == "Llama 3.1's, as the tokenizer has none"
    (folder / "chat_template.jinja").write_text(CHATML)
    assert load_chat_tokenizer(folder).chat_templates == {"default": CHATML}
    (folder / "chat_template.jinja").unlink()
    config["chat_template"] = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_chat_tokenizer(folder).chat_templates == {"default": "A", "tool_use": "B"}


SYSTEM_MOVES = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{{ bos_token }}{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (system + '\n\n' if loop.last or loop.revindex == 2 else '') + m.content + ' [/INST]' }}"
    "{% elif m.tool_calls %}CALLS{% else %}{{ ' ' + m.content | trim + '</s>' }}{% endif %}{% endfor %}"
)
"""As Mistral's: the system prompt stands in the last user turn, and nothing tells an answer's beginning."""
CALLS = "{{ '[TOOL_CALLS] [{\"name\": \"' + m.tool_calls[0].function.name + '\"}]</s>' }}"


def test_the_space_of_earlier_answers_where_the_system_prompt_moves() -> None:
    messages = [{"role": "system", "content": "Be kind."}, *chat("one", "first", "two", " second ", "three", "third")]
    for calls in (CALLS, "{{ raise_exception('no calls here') }}", ""):
        template = with_template(SYSTEM_MOVES.replace("CALLS", calls))
        assert assistant_texts(template, messages) == [" first</s>", " second</s>", " third</s>"]


def test_the_beginning_of_earlier_calls_where_the_system_prompt_moves() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    messages = [{"role": "system", "content": "Be kind."}, *chat("one", "first", "two", "second")]
    messages[2] = {"role": "assistant", "content": "", "tool_calls": [call]}
    template = with_template(SYSTEM_MOVES.replace("CALLS", CALLS))
    assert assistant_texts(template, messages) == ['[TOOL_CALLS] [{"name": "look"}]</s>', " second</s>"]
    calls_only = "{% if not m.tool_calls %}{{ raise_exception('calls only') }}{% endif %}" + CALLS
    strict = SYSTEM_MOVES.replace("CALLS", calls_only).replace(
        "{{ ' ' + m.content | trim", "{{ 1/0 if m.content != 'second' }}{{ ' ' + m.content | trim"
    )
    with pytest.raises(MalformedRow, match="does not let one tell where the calls of message 3 begin"):
        with_template(strict).render(Conversation(messages=messages))
