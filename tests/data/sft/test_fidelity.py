"""What the row says is held against what was rendered: each way of leaving something out, and of writing it anew."""

from __future__ import annotations

import json
from typing import Any

import pytest

from megatron_patch.data.sft.formats import Conversation, MalformedRow
from megatron_patch.data.sft.loss_mask import one_by_one
from megatron_patch.data.sft.rendering.fidelity import (
    ARGUMENTS,
    CALL,
    REASONING,
    RESULT,
    SYSTEM,
    TEXT,
    TOOL,
    USER,
    missing,
)
from megatron_patch.data.sft.rendering.template import ChatTemplate

HEAD = "{{ '<|im_start|>' + m['role'] + '\\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
CHATML = "{% for m in messages %}" + HEAD + "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}" + PROMPT
# As Qwen3: reasoning of the last turn only.
LAST_REASONING = (
    "{% for m in messages %}" + HEAD + "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}"
    "</think>{% endif %}{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}" + PROMPT
)
# As DeepSeek R1's: what precedes `</think>` goes.
NO_THINKING = CHATML.replace("m['content'] +", "m['content'].split('</think>')[-1] +")
CALLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}" + HEAD + "{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ CALL }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}" + PROMPT
)
JSON_CALL = '{"name": "\' + call.function.name + \'", "parameters": \' + call.function.arguments | tojson + \'}'


def template(text: str | dict[str, str]) -> ChatTemplate:
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(
        text, source="of this test", named_tokens=named, special_tokens=["<|im_start|>", "<|im_end|>", "</s>"]
    )


def chat(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def calling(arguments: Any, name: str = "add") -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "It is 4."},
    ]


def dropped(text: str, messages: list[dict[str, Any]], tools: Any = None) -> list[tuple[str, int | None, bool]]:
    rendered = template(text).render(Conversation(messages=messages, tools=tools))
    return [(item.what, item.message, item.by_design) for item in rendered.dropped]


def test_nothing_is_missing_from_a_faithful_rendering() -> None:
    assert dropped(CHATML, chat("a", " b \n", "c", "<think>\nd\n</think>\n\ne")) == []
    assert dropped(CHATML.replace("m['content'] +", "m['content'] | trim +"), chat("a", " b \n")) == []


def test_a_text_that_is_cut_is_missing() -> None:
    cut = CHATML.replace("m['content'] +", "m['content'][:3] +")
    assert dropped(cut, chat("a", "long answer")) == [(TEXT, 2, False)]
    assert dropped(cut, chat("a", "b")) == []


def test_reasoning_in_both_writings() -> None:
    field = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "4", "reasoning_content": "two, two"}]
    assert dropped(CHATML, field) == [(REASONING, 2, False)]
    assert dropped(NO_THINKING, chat("a", "<think>two, two</think>4")) == [(REASONING, 2, False)]
    assert dropped(NO_THINKING, chat("a", "two, two</think>4")) == [(REASONING, 2, False)]
    for key in ("reasoning", "thinking"):
        renamed = [field[0], {"role": "assistant", "content": "4", key: "two, two"}]
        assert dropped(LAST_REASONING, renamed) == []


def test_earlier_reasoning_is_left_out_by_design_and_trained_one_by_one() -> None:
    answers = [{"role": "assistant", "content": f"answer {i}", "reasoning_content": f"thought {i}"} for i in range(3)]
    messages = [message for answer in answers for message in ({"role": "user", "content": "q"}, answer)]
    conversation = Conversation(messages=messages, context=frozenset((3,)))
    rendered = template(LAST_REASONING).render(conversation)
    assert [(item.message, item.by_design) for item in rendered.dropped] == [(2, True)]
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        "answer 0<|im_end|>",
        "<think>thought 2</think>answer 2<|im_end|>",
    ]
    samples = [template(LAST_REASONING).render(sample) for sample in one_by_one(conversation)]
    assert [[sample.text[start:end] for start, end in sample.spans] for sample in samples] == [
        ["<think>thought 0</think>answer 0<|im_end|>"],
        ["<think>thought 2</think>answer 2<|im_end|>"],
    ]


ARGUMENT = {"a": 2, "b": {"c": [1.5, None, True, 'é\n"x"']}}
WRITTEN = {
    "JSON": "'" + JSON_CALL + "'",
    "escaped JSON": "call.function.name + (call.function.arguments | tojson(ensure_ascii=true))",
    "JSON over lines": "call.function.name + (call.function.arguments | tojson(indent=4))",
    "JSON in JSON": "({'name': call.function.name, 'arguments': call.function.arguments | tojson}) | tojson",
    "Python": "call.function.name ~ call.function.arguments",
}  # fmt: skip


@pytest.mark.parametrize("how", WRITTEN)
def test_arguments_are_compared_as_values(how: str) -> None:
    text = CALLS.replace("CALL", WRITTEN[how])
    assert dropped(text, calling(ARGUMENT)) == []
    assert dropped(text, calling({})) == []


def test_arguments_as_tags() -> None:
    """As Qwen3-Coder writes them: each key and value by itself."""
    items = "call.function.arguments.items()"
    tags = "{{ call.function.name }}{% for k, v in ITEMS %}<{{ k }}>{{ v }}</{{ k }}>{% endfor %}"
    tags = tags.replace("ITEMS", items)
    text = CALLS.replace("{{ CALL }}", tags)
    assert dropped(text, calling({"a": 2, "b": "x y"})) == []


def test_calls_that_vanish_or_change() -> None:
    assert dropped(CHATML.replace("m['content']", "(m['content'] or '')"), calling({"a": 2})) == [(CALL, 2, False)]
    no_arguments = CALLS.replace("CALL", "call.function.name + '{}'")
    assert dropped(no_arguments, calling({"a": 2})) == [(ARGUMENTS, 2, False)]
    other = CALLS.replace("CALL", "call.function.name + ({'a': true} | tojson)")
    assert dropped(other, calling({"a": 1})) == [(ARGUMENTS, 2, False)], "true is not 1"
    first_only = CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]").replace("CALL", WRITTEN["Python"])
    twice = calling({"a": 2})
    twice[1]["tool_calls"] *= 2
    assert dropped(first_only, twice) == [(CALL, 2, False)]


def test_tools_that_vanish_though_they_are_called() -> None:
    tool = {"type": "function", "function": {"name": "add", "description": "adds"}}
    called = CALLS.replace("CALL", WRITTEN["JSON"])
    assert dropped(called, calling({"a": 2}), [tool]) == []
    blind = called.replace("{% if tools %}{{ tools | tojson }}{% endif %}", "")
    assert dropped(blind, calling({"a": 2}), [tool, tool["function"]]) == [(TOOL, None, False)] * 2


def test_a_turn_of_weight_0_is_not_trained_and_not_left_out() -> None:
    cut = CHATML.replace("m['content'] +", "m['content'][:3] +")
    conversation = Conversation(messages=chat("a", "long answer", "c", "d"), context=frozenset((1,)))
    rendered = template(cut).render(conversation)
    assert [(item.what, item.message) for item in rendered.dropped] == [(TEXT, 2)]
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["d<|im_end|>"]


RESULTS = calling({"a": 2})
RESULTS[2]["content"] = '{"sum": "4\né"}'


def test_context_that_vanishes() -> None:
    system = {"role": "system", "content": "Be kind."}
    no_system = CHATML.replace("in messages %}", "in messages if m.role != 'system' %}")
    assert dropped(no_system, [system, *chat("a", "b")]) == [(SYSTEM, 1, False)]
    assert dropped(no_system, [{"role": "system", "content": " "}, *chat("a", "b")]) == []
    no_users = CHATML.replace("m['content'] +", "(m['content'] if m.role == 'assistant' else '') +")
    assert dropped(no_users, chat("1", "not 1 or 2", "2", "3")) == [(USER, 1, False), (USER, 3, False)], "not elsewhere"
    called = CALLS.replace("CALL", WRITTEN["JSON"])
    assert dropped(called.replace("in messages %}", "in messages if m.role != 'tool' %}"), RESULTS) == [
        (RESULT, 3, False)
    ]


@pytest.mark.parametrize("how", ["m.content", "m.content | tojson", "m.content | tojson(ensure_ascii=true)"])
def test_results_of_tools_are_written_in_many_ways(how: str) -> None:
    called = CALLS.replace("CALL", WRITTEN["JSON"])
    written = called.replace("{{ m.content or '' }}", "{{ (HOW) if m.role == 'tool' else m.content or '' }}")
    assert dropped(written.replace("HOW", how), RESULTS) == []
    moved = "{% for m in messages if m.role == 'system' %}{{ m.content | indent }}{% endfor %}" + CHATML
    assert dropped(moved, [*chat("a", "b"), {"role": "system", "content": "Be\nkind."}]) == []


def test_tool_use_is_taken_where_there_are_tools() -> None:
    named = template({"default": CHATML, "tool_use": "{{ tools | tojson }}" + CHATML})
    tool = {"type": "function", "function": {"name": "add"}}
    assert named.render(Conversation(messages=chat("a", "b"), tools=[tool])).text.startswith('[{"type"')
    assert named.render(Conversation(messages=chat("a", "b"))).text.startswith("<|im_start|>")
    only = template({"tool_use": CHATML})
    with pytest.raises(MalformedRow, match="for tools alone"):
        only.render(Conversation(messages=chat("a", "b")))


def test_a_header_that_is_always_appended_is_not_trained() -> None:
    """As Llama 3's first template: `add_generation_prompt` is not asked."""
    always = template(CHATML.replace("{% if add_generation_prompt %}", "").replace("{% endif %}", ""))
    rendered = always.render(Conversation(messages=chat("a", "b", "c", "d")))
    assert rendered.text.endswith("<|im_start|>assistant\n")
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["b<|im_end|>", "d<|im_end|>"]


@pytest.mark.parametrize(
    "system", ["{% if messages[0].role != 'system' %}Be kind.{% endif %}", "{% if not messages %}x{% endif %}"]
)
def test_a_conversation_that_begins_with_the_assistant(system: str) -> None:
    in_loop = CHATML.replace(HEAD, "{% if loop.first %}{{ bos_token }}{% endif %}" + HEAD)
    for text in (system + CHATML, in_loop):
        rendered = template(text).render(Conversation(messages=chat("a", "b", "c")[1:]))
        assert [rendered.text[start:end] for start, end in rendered.spans] == ["b<|im_end|>"]


def test_call_ids_of_nine_characters() -> None:
    wants = CALLS.replace(
        "CALL", "raise_exception('length 9') if call.id | length != 9 else call.function.name + call.id"
    )
    wants = wants.replace("{{ m.content or '' }}", "{{ m.content or '' }}{{ m.tool_call_id }}")
    messages = calling({})
    messages[1]["tool_calls"][0]["id"] = "call_0123456789"
    messages[2]["tool_call_id"] = "call_0123456789"
    given = template(wants).render(Conversation(messages=messages))
    assert given.text == template(wants).render(Conversation(messages=messages)).text
    made = template(wants).render(Conversation(messages=calling({})))
    for rendered in (given, made):
        number = rendered.text.split("add")[1].split("<")[0]
        assert len(number) == 9 and number.isalnum() and f"4{number}<|im_end|>" in rendered.text
    messages[1]["tool_calls"][0]["id"] = messages[2]["tool_call_id"] = "abcDEF123"
    assert "addabcDEF123" in template(wants).render(Conversation(messages=messages)).text


def test_a_call_without_content_where_the_template_wants_one() -> None:
    strict = CALLS.replace("m.content or ''", "m.content + ''").replace("CALL", WRITTEN["JSON"])
    rendered = template(strict).render(Conversation(messages=calling({"a": 2})))
    assert '"parameters": {"a": 2}' in rendered.text and not rendered.dropped


def test_many_braces_are_no_trap() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": "{" * 2000}}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert missing(message, 2, "f " + json.dumps(call["function"]["arguments"])) == []
    assert [item.what for item in missing(message, 2, "f " + "{" * 20_000 + " a")] == []
    assert [item.what for item in missing(message, 2, "f " + "[{" * 900)] == [ARGUMENTS]
