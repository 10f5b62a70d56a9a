"""Records of each format become the same conversation; wrong ones say what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from megatron_patch.data.sft.formats import EmptyRow, MalformedRow, describe, recognise

TURNS = [("user", "Why?"), ("assistant", "Because.")]
MESSAGES = [{"role": role, "content": text} for role, text in TURNS]
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}


def convert(record: dict[str, Any]) -> tuple[str, Any]:
    kind = recognise(record)
    assert kind is not None, describe(record)
    return kind.name, kind.convert(record)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("messages", {"messages": MESSAGES}),
        ("messages", {"conversations": MESSAGES, "id": 7}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, MESSAGES[1]]}),
        ("messages", {"messages": [{**turn, "tool_calls": None, "name": None} for turn in MESSAGES], "tools": None}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}),
        ("sharegpt", {"conversation": [{"from": "user", "value": "Why?"}, {"from": "chatgpt", "value": "Because."}]}),
        ("alpaca", {"instruction": "Why?", "input": "", "output": "Because."}),
        ("alpaca", {"instruction": "", "input": "Why?", "output": "Because."}),
        ("alpaca", {"query": "Why?", "response": "Because.", "history": []}),
        ("alpaca", {"query": "Why?", "content": "Because.", "history": None, "input": None}),
        ("alpaca", {"input": "Why?", "output": "Because."}),
        ("alpaca", {"question": "Why?", "answer": "Because."}),
        ("alpaca", {"prompt": "Why?", "response": "Because.", "id": 1}),
        ("messages", {"conversation": MESSAGES}),
        ("messages", {"messages": [{"role": "human", "content": "Why?"}, {"role": "gpt", "content": "Because."}]}),
        ("sharegpt", {"messages": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}),
        ("messages", {"messages": [{"role": "User", "content": "Why?"}, {"role": "Assistant", "content": "Because."}]}),
        ("messages", {"messages": [{"role": "user", "value": "Why?"}, {"role": "bot", "value": "Because."}]}),
        ("sharegpt", {"conversations": [{"from": "Human", "value": "Why?"}, {"from": " GPT", "value": "Because."}]}),
        ("sharegpt", {"conversations": [{"from": "human", "content": "Why?"}, {"from": "ai", "content": "Because."}]}),
        ("prompt-completion", {"prompt": "Why?", "completion": "Because.", "response": "Another."}),
        ("prompt-completion", {"prompt": "Why?", "completion": "Because."}),
        ("prompt-completion", {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}),
    ],
)
def test_every_format_is_the_same_conversation(name: str, record: dict[str, Any]) -> None:
    found, conversation = convert(record)
    assert found == name
    assert conversation.messages == MESSAGES
    assert conversation.tools is None


def test_alpaca_joins_instruction_and_input_and_keeps_history_and_system() -> None:
    record = {
        "instruction": "Translate.",
        "input": "Haus",
        "output": "house",
        "history": [["Hi", "Hello"], ["So", "Yes"]],
        "system": "You translate.",
    }
    _, conversation = convert(record)
    assert [(turn["role"], turn["content"]) for turn in conversation.messages] == [
        ("system", "You translate."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "So"),
        ("assistant", "Yes"),
        ("user", "Translate.\nHaus"),
        ("assistant", "house"),
    ]


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input"])
@pytest.mark.parametrize("arguments", [{"zone": "UTC"}, '{"zone": "UTC"}', {}])
def test_tool_calls_of_every_spelling(key: str, arguments: object) -> None:
    function = {"name": "now", key: arguments}
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    wanted = {"type": "function", "function": {"name": "now", "arguments": given}}
    for call, kept in (
        ({"type": "function", "function": function}, wanted),
        (function, wanted),
        ({"id": "call_1", "type": "function", "function": function, "index": 0}, {"id": "call_1", **wanted}),
    ):
        turn = {"role": "assistant", "content": None, "tool_calls": [call]}
        _, conversation = convert({"messages": [MESSAGES[0], turn], "tools": [TOOL]})
        assert conversation.messages[1] == {"role": "assistant", "tool_calls": [kept]}
        assert conversation.tools == [TOOL]
    turns = [{"from": "human", "value": "When?"}, {"from": "function_call", "value": json.dumps(function)}]
    assert convert({"conversations": turns})[1].messages[1] == {"role": "assistant", "tool_calls": [wanted]}


def test_openai_s_older_functions() -> None:
    turns = [
        MESSAGES[0],
        {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": '{"zone": "UTC"}'}},
        {"role": "function", "name": "now", "content": "12:00"},
        {"role": "assistant", "content": "Noon."},
    ]
    for functions in ([TOOL["function"]], json.dumps([TOOL["function"]]), [json.dumps(TOOL["function"])]):
        _, conversation = convert({"messages": turns, "functions": functions})
        assert conversation.messages[1] == {"role": "assistant", "tool_calls": [CALL]}
        assert conversation.messages[2] == {"role": "tool", "name": "now", "content": "12:00"}
        assert conversation.tools == [TOOL]


@pytest.mark.parametrize(
    "flag", [{"weight": 0}, {"weight": 0.0}, {"loss": False}, {"train": False, "weight": 0}, {"training": False}]
)
def test_turns_that_are_not_trained(flag: dict[str, Any]) -> None:
    answer, share = MESSAGES[1], {"from": "gpt", "value": "Because."}
    for key in ("messages", "conversations"):
        _, conversation = convert({key: [MESSAGES[0], answer | flag, *MESSAGES], "system": "s"})
        assert conversation.context == {2} and conversation.messages[1:] == [*MESSAGES, *MESSAGES]
    _, conversation = convert({"conversations": [share | flag, {"from": "human", "value": "?"}, share | {"weight": 1}]})
    assert conversation.context == {0}
    assert convert({"messages": [MESSAGES[0] | flag, answer | {"train": True}]})[1].context == frozenset()


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_beside_an_answer_is_its_reasoning_in_every_format(key: str) -> None:
    said = {key: "It is so."}
    shares = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because.", **said}]
    calls = [
        {"from": "human", "value": "When?"},
        {"from": "function_call", "value": json.dumps(CALL["function"]), **said},
    ]
    records: list[dict[str, Any]] = [{"messages": [MESSAGES[0], MESSAGES[1] | said]}]
    records += [{"conversations": shares}, {"conversations": calls}, {"messages": shares}]
    records += [{"input": "Why?", "content": "Because.", **said}] if key == "reasoning_content" else []
    for record in records:
        assert convert(record)[1].messages[1][key] == "It is so.", record


def test_calls_under_a_speaker_in_capitals_are_calls() -> None:
    call = {"role": "Tool_Call", "content": json.dumps(CALL["function"])}
    messages = convert({"messages": [MESSAGES[0], {"role": "Assistant", "content": "I look."}, call]})[1].messages
    assert messages[1] == {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}


def test_a_prompt_of_several_turns_is_context() -> None:
    """As in TRL: what is trained is the completion."""
    record = {"prompt": [*MESSAGES, MESSAGES[0]], "completion": MESSAGES[1:]}
    assert convert(record)[1].context == {1} and convert(record)[1].messages == [*MESSAGES, *MESSAGES]
    record["prompt"] = [MESSAGES[0], MESSAGES[1] | {"weight": 1}, MESSAGES[0]]
    assert convert(record)[1].context == frozenset()


@pytest.mark.parametrize(
    ("record", "others"),
    [
        ({"instruction": "a", "query": "b", "output": "c", "response": "d", "answer": ""}, ["query", "response"]),
        ({"messages": MESSAGES, "conversations": MESSAGES, "conversation": []}, ["conversations"]),
        ({"instruction": "a", "input": "b", "output": "c"}, []),
    ],
)
def test_keys_in_whose_place_another_is_read(record: dict[str, Any], others: list[str]) -> None:
    kind = recognise(record)
    assert kind is not None and kind.others(record) == others


def test_ms_swift_s_calls_are_one_turn() -> None:
    """Calls behind a text and behind each other are part of it; each answer of a tool stays a message."""
    call = {"role": "tool_call", "content": json.dumps(CALL["function"])}
    answer = {"role": "tool_response", "content": "12:00"}
    turns = [MESSAGES[0], {"role": "assistant", "content": "I look."}, call, call, answer, answer, call, answer]
    messages = convert({"messages": turns, "tools": json.dumps([TOOL])})[1].messages
    assert [turn["role"] for turn in messages] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert messages[1] == {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]}
    assert messages[4] == {"role": "assistant", "tool_calls": [CALL]}
    apart = convert({"messages": [MESSAGES[0], call | {"loss": False}, call]})[1]
    assert len(apart.messages) == 3 and apart.context == {1}


def test_sharegpt_function_calls_and_tools_as_json_text() -> None:
    turns = [
        {"from": "human", "value": "When?"},
        {"from": "function_call", "value": '{"name": "now", "arguments": {"zone": "UTC"}}'},
        {"from": "observation", "value": "12:00"},
        {"from": "gpt", "value": "Noon."},
    ]
    _, conversation = convert({"conversations": turns, "tools": json.dumps([TOOL]), "system": "Be brief."})
    assert [turn["role"] for turn in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert conversation.messages[2] == {"role": "assistant", "tool_calls": [CALL]}
    assert conversation.tools == [TOOL]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"instruction": "a", "output": ""}, "output is empty"),
        ({"instruction": "a", "output": None}, "output is empty"),
        ({"instruction": " ", "input": "", "output": "b"}, "instruction and input are empty"),
        ({"prompt": "a", "completion": " \n"}, "completion is empty"),
        ({"messages": []}, "no messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no messages"),
        ({"conversations": []}, "no messages"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": " "}]}, "every assistant turn is empty"),
    ],
)
def test_rows_with_nothing_to_train_say_so(record: dict[str, Any], says: str) -> None:
    with pytest.raises(EmptyRow, match=says):
        convert(record)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"messages": ["hello"]}, "message 1 is a JSON string; wanted an object"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 1 has role 'robot'; valid: system, developer, us"),
        ({"messages": [MESSAGES[0], {"from": "gpt", "value": "x"}]}, "message 2 has no role; its keys: from, value"),
        ({"messages": [{"role": "tool_call", "content": "[]"}]}, "tool_call in turn 1 calls nothing"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "message 1 has role"),
        ({"messages": [{"role": "user"}]}, r"content of message 1 \(user\) is a JSON null; wanted a string"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "a part that is not text"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "f"}]}]},
            "has none of arguments, para",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": None}]}]}, "has none of argum"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "args": [1]}}]}]},
            "array",
        ),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f", "args": {"x": 1e999}}}]}, "as JSON"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "f", "args": '{"x": 1' + "1" * 5000}}]},
            "dig",
        ),
        ({"messages": [{"role": "assistant", "function_call": CALL, "tool_calls": [CALL]}]}, "both tool_calls and"),
        ({"messages": MESSAGES, "tools": [{"x": float("nan")}]}, "tools cannot be written as JSON"),
        ({"messages": MESSAGES, "tools": [TOOL], "functions": [TOOL]}, "both tools and functions"),
        (
            {"messages": [MESSAGES[0], MESSAGES[1] | {"weight": 0.5}]},
            "weight of message 2 is 0.5; wanted true",
        ),
        ({"messages": [MESSAGES[0], MESSAGES[1] | {"weight": [0]}]}, "weight of message 2 is"),
        (
            {"messages": [MESSAGES[0], MESSAGES[1] | {"weight": 0, "loss": True}]},
            "message 2 contradicts itself: weight 0, loss True",
        ),
        ({"messages": [MESSAGES[0] | {"train": True}, MESSAGES[1]]}, "message 1 .user. asks to be trained"),
        ({"messages": MESSAGES, "tools": "not json"}, "tools: bad JSON"),
        ({"messages": MESSAGES, "tools": {"name": "f"}}, "tools is not a list"),
        ({"messages": [{"role": "system", "content": "a"}, *MESSAGES], "system": "b"}, "two system turns"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "without a function name"),
        (
            {"conversations": [{"from": "alien", "value": "x"}]},
            "turn 1 is from 'alien'; valid: system, developer, user, human",
        ),
        ({"conversations": [{"from": "human", "value": 3}]}, r"value of turn 1 \(human\) is a JSON number"),
        ({"instruction": "a", "output": 5}, "output is a JSON number; wanted a string"),
        ({"instruction": ["a"], "output": "b"}, "instruction has a part that is not text"),
        ({"instruction": "a", "output": "b", "history": [["only one"]]}, "entry 1 of history is not a"),
        ({"instruction": "a", "output": "b", "system": 3}, "system is a JSON number"),
        ({"prompt": "a", "completion": {"x": 1}}, "completion is a JSON object"),
    ],
)
def test_malformed_rows_say_what_is_wrong(record: dict[str, Any], says: str) -> None:
    with pytest.raises(MalformedRow, match=says):
        convert(record)


@pytest.mark.parametrize("record", [None, 3, "text", [], {}, {"text": "x"}, {"instruction": "no answer"}])
def test_unknown_records_are_not_recognised(record: object) -> None:
    assert recognise(record) is None
    assert "wanted" in str(describe(record))


ANYTHING = [None, True, 5, 0.5, "", "text", "[" * 100_000, [], [None], [5], ["text"], [{}], {}, {"a": 1}]
ANYTHING += [[{"type": "text"}], [{"type": "text", "text": 5}], [{"role": ["user"], "content": "?"}], [["q", "a"]]]


@pytest.mark.parametrize("value", ANYTHING, ids=[str(value)[:30] for value in ANYTHING])
def test_any_json_anywhere_is_refused_in_words(value: Any) -> None:
    """A row converts, or says why not; it never ends the run with a traceback."""
    turn, share = {"role": "user", "content": "?"}, {"from": "human", "value": "?"}
    records: list[dict[str, Any]] = [
        *({"messages": [{**turn, key: value}]} for key in ("role", "content", "tool_calls", "name")),
        *({"conversations": [{**share, key: value}]} for key in ("from", "value")),
        {"conversations": [{"from": "function_call", "value": value}]},
        {"conversations": [{"from": "function_call", "value": json.dumps(value)}]},
        {"messages": [{"role": "assistant", "tool_calls": [value]}]},
        *({"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": value}]}]},),
        *({"messages": [turn], key: value} for key in ("system", "tools")),
        *(
            {"instruction": "?", "output": "!"} | {key: value}
            for key in ("instruction", "input", "output", "history", "system", "tools")
        ),
        *({"prompt": "?", "completion": "!"} | {key: value} for key in ("prompt", "completion")),
        *({key: value} for key in ("messages", "conversations", "conversation")),
    ]
    for record in records:
        kind = recognise(record)
        if kind is None:
            assert describe(record)
            continue
        try:
            kind.convert(record)
        except (MalformedRow, EmptyRow) as refused:
            assert str(refused)


def test_a_system_prompt_beside_the_turns() -> None:
    turns = {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}
    for key in ("system", "system_prompt"):
        kind = recognise(turns | {key: "Be kind."})
        assert kind and kind.convert(turns | {key: "Be kind."}).messages[0] == {"role": "system", "content": "Be kind."}
    both = turns | {"system": "Be kind.", "system_prompt": "Be brief."}
    with pytest.raises(MalformedRow, match="system and system_prompt differ"):
        recognise(both).convert(both)
    for wrong in ({"system_prompt": 5}, {"system": ["x"]}):
        with pytest.raises(MalformedRow, match="wanted a string"):
            recognise(turns | wrong).convert(turns | wrong)
