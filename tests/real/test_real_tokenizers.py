"""Published tokenizers and their templates: ids and masks are Hugging Face's, and nothing of a row is lost."""

from __future__ import annotations

import inspect
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_patch.data.sft.chat_tokenizer import load_chat_tokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.formats import Conversation, MalformedRow
from megatron_patch.data.sft.loss_mask import one_by_one, trained
from megatron_patch.data.sft.rendering.fidelity import REASONING, TOOL
from megatron_patch.data.sft.rendering.template import ChatTemplate
from megatron_patch.data.tokenizers.engines import AWKWARD, battery
from megatron_patch.data.tokenizers.text_tokenizer import load_tokenizer
from megatron_patch.launch.inputs import read_tokenizer

from ..data.sft import losses
from . import templates

pytestmark = pytest.mark.slow

Fetch = Callable[[str], Path]
NAMES = ("llama3_1", "llama3", "llama2", "qwen3", "gemma3", "deepseek_v3")
TOOL_SCHEMA = {
    "type": "function",
    "function": {"name": "zeit", "parameters": {"type": "object", "properties": {"ort": {"type": "string"}}}},
}
WORDS = [
    "def",
    "x",
    "北京",
    "naïve",
    "e\u0301te\u0301",
    "\u1112\u1161\u11ab",
    "🦙",
    "\n\n",
    "  ",
    "tail\t42",
    "1234567",
]
WORDS += ["don't", "{'a': 1}", "<|eot", "▁", "\u3000", "\u200b", "ﬁ", "</tool", "Zeit"]


def words(state: random.Random, most: int = 12) -> str:
    return "w" + " ".join(state.choice(WORDS) for _ in range(state.randint(1, most))) + "."


def chat(state: random.Random, turns: int, *, system: bool = False, reasoning: str = "") -> list[dict[str, Any]]:
    """A conversation; reasoning is written nowhere, `inline`, or as a `field`."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": words(state)}] if system else []
    for _ in range(turns):
        answer: dict[str, Any] = {"role": "assistant", "content": words(state)}
        if reasoning == "inline":
            answer["content"] = f"<think>\n{words(state)}\n</think>\n\n{answer['content']}"
        elif reasoning == "field":
            answer["reasoning_content"] = words(state)
        messages += [{"role": "user", "content": words(state)}, answer]
    return messages


def with_call(state: random.Random, *, content: str | None = "") -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "zeit", "arguments": {"ort": words(state), "n": [1, None, 2.5]}}}
    calling = {"role": "assistant", "content": content, "tool_calls": [call]}
    return [
        {"role": "user", "content": words(state)},
        {key: value for key, value in calling.items() if value is not None},
        {"role": "tool", "content": words(state)},
        {"role": "assistant", "content": words(state)},
    ]


def folder_with(folder: Path, target: Path, template: str) -> Path:
    shutil.copytree(folder, target)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    return target


def compare(folder: Path, marked: str, conversations: list[Conversation]) -> None:
    """Ids and masks of our encoding against `apply_chat_template` with the marked template; nothing is dropped."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer = load_chat_tokenizer(folder)
    template = ChatTemplate.of(tokenizer)
    assert not template.marked
    rendered = [template.render(conversation) for conversation in conversations]
    for engine in ("auto", "hf"):
        encoded = Encoder(tokenizer, engine).encode(rendered)
        for conversation, (tokens, turns) in zip(conversations, encoded, strict=True):
            options = {"tools": conversation.tools, "date_string": "26 Jul 2024"}
            expected = theirs.apply_chat_template(
                conversation.messages, chat_template=marked, return_assistant_tokens_mask=True, **options
            )
            assert tokens.tolist() == expected["input_ids"]
            plain = theirs.apply_chat_template(conversation.messages, return_dict=False, **options)
            assert tokens.tolist() == plain
            wanted = [bool(flag) for flag in expected["assistant_masks"]]
            found = trained(turns, "assistant").tolist()
            assert found == wanted, (theirs.decode(tokens[found]), theirs.decode(tokens[wanted]))


def plain_chats(seed: int, *, system: bool = True, reasoning: str = "") -> list[Conversation]:
    state = random.Random(seed)
    return [
        Conversation(messages=chat(state, 1 + i % 4, system=system and i % 3 == 0, reasoning=reasoning))
        for i in range(60)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_autotokenizers(name: str, real: Fetch) -> None:
    from transformers import AutoTokenizer

    folder = real(name)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    state = random.Random(0)
    texts = [*AWKWARD, *battery(ours), *inspect.getsource(random).splitlines(), *(words(state, 40) for _ in range(300))]
    assert ours.encode(texts) == [theirs(text).input_ids for text in texts]
    assert read_tokenizer(str(folder)).ids == len(theirs)


def test_llama_3_1_instruct(real: Fetch, tmp_path: Path) -> None:
    """Meta's Instruct behaviour: the date, tools in the first user message, one call a turn."""
    folder = folder_with(real("llama3_1"), tmp_path / "t", templates.LLAMA3_1)
    state = random.Random(1)
    calls = [Conversation(messages=with_call(state, content=None), tools=[TOOL_SCHEMA]) for _ in range(20)]
    compare(folder, templates.marked_llama3_1(), plain_chats(0) + calls)


def test_llama_3s_first_template_does_not_teach_the_next_header(real: Fetch, tmp_path: Path) -> None:
    folder = folder_with(real("llama3"), tmp_path / "t", templates.LLAMA3_FIRST)
    compare(folder, templates.LLAMA3_FIRST_MARKED, plain_chats(2))


@pytest.mark.parametrize("reasoning", ["", "inline", "field"])
def test_qwen3_is_masked_as_the_marked_template_says(reasoning: str, real: Fetch) -> None:
    folder = real("qwen3")
    text = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    state = random.Random(3)
    calls = [Conversation(messages=with_call(state), tools=[TOOL_SCHEMA]) for _ in range(20)]
    calls += [Conversation(messages=with_call(state) + chat(state, 2)) for _ in range(10)]
    chats = plain_chats(4, reasoning=reasoning)
    compare(folder, templates.marked_qwen3(text), chats + calls)


def test_qwen3_leaves_out_earlier_reasoning_by_design(real: Fetch) -> None:
    template = ChatTemplate.of(load_chat_tokenizer(real("qwen3")))
    conversation = Conversation(messages=chat(random.Random(5), 3, reasoning="field"))
    dropped = template.render(conversation).dropped
    assert [(item.what, item.message, item.by_design) for item in dropped] == [
        (REASONING, 2, True),
        (REASONING, 4, True),
    ]
    samples = one_by_one(conversation)
    assert len(samples) == 3
    for sample in samples:
        rendered = template.render(sample)
        assert not rendered.dropped
        ((start, end),) = rendered.spans
        assert sample.messages[-1]["reasoning_content"].strip() in rendered.text[start:end]


def test_gemma_3_is_masked_as_the_marked_template_says(real: Fetch) -> None:
    folder = real("gemma3")
    text = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    compare(folder, templates.marked_gemma3(text), plain_chats(6))


def test_deepseek_is_masked_as_the_marked_template_says(real: Fetch) -> None:
    folder = real("deepseek_v3")
    text = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    compare(folder, templates.marked_deepseek(text), plain_chats(7))


def test_templates_that_know_no_tools_or_reasoning_say_so(real: Fetch) -> None:
    template = ChatTemplate.of(load_chat_tokenizer(real("gemma3")))
    with_tools = Conversation(messages=chat(random.Random(8), 1), tools=[TOOL_SCHEMA])
    assert [item.what for item in template.render(with_tools).dropped] == [TOOL]
    thinking = Conversation(messages=chat(random.Random(8), 1, reasoning="field"))
    assert [item.what for item in template.render(thinking).dropped] == [REASONING]
    with pytest.raises(MalformedRow, match="alternate"):
        template.render(Conversation(messages=chat(random.Random(8), 1)[::-1]))


def test_sentencepiece_models_export_with_their_ids(sentencepiece_models: list[Path], tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    from megatron_patch.data.tokenizers.sentencepiece_hf import write_hf_tokenizer

    for model in sentencepiece_models:
        (tmp_path / model.name).mkdir()
        said = write_hf_tokenizer(model, tmp_path / model.name)
        assert re.search(r"same ids on (\d+) of \1 texts", str(said))
        ours = AutoTokenizer.from_pretrained(tmp_path / model.name)
        theirs = SentencePieceProcessor(model_file=str(model))
        state = random.Random(9)
        texts = [words(state, 40) for _ in range(300)]
        assert [ours(text, add_special_tokens=False).input_ids for text in texts] == theirs.encode(texts)


def test_mistral_v1_is_masked_as_the_marked_template_says(mistral: Fetch, tmp_path: Path) -> None:
    folder = folder_with(mistral("v1"), tmp_path / "t", templates.MISTRAL_V1)
    compare(folder, templates.marked_mistral_v1(), plain_chats(10, system=False))


def test_mistral_v3_gets_call_ids_of_nine_characters(mistral: Fetch, tmp_path: Path) -> None:
    folder = folder_with(mistral("v3"), tmp_path / "t", templates.MISTRAL_V3)
    state = random.Random(11)
    calls = [Conversation(messages=with_call(state, content=None), tools=[TOOL_SCHEMA]) for _ in range(20)]
    numbered = []
    for number, each in enumerate(calls):
        messages = [dict(message) for message in each.messages]
        messages[1]["tool_calls"] = [{**messages[1]["tool_calls"][0], "id": f"call{number:05}"}]
        messages[2]["tool_call_id"] = f"call{number:05}"
        numbered.append(Conversation(messages=messages, tools=each.tools))
    compare(folder, templates.marked_mistral_v3(), plain_chats(12, system=False) + numbered)
    template = ChatTemplate.of(load_chat_tokenizer(folder))
    for each in calls:  # no ids in the row: made, and equal in call and answer
        rendered = template.render(each)
        assert not rendered.dropped
        made = rendered.text.split('"id": "')[1].split('"')[0]
        assert len(made) == 9 and f'"call_id": "{made}"' in rendered.text


WITH_LOSSES = {
    "llama3_1": (templates.LLAMA3_1, lambda _: templates.marked_llama3_1()),
    "llama3": (templates.LLAMA3_FIRST, lambda _: templates.LLAMA3_FIRST_MARKED),
    "qwen3": (None, templates.marked_qwen3),
    "gemma3": (None, templates.marked_gemma3),
    "deepseek_v3": (None, templates.marked_deepseek),
    "v1": (templates.MISTRAL_V1, lambda _: templates.marked_mistral_v1()),
    "v3": (templates.MISTRAL_V3, lambda _: templates.marked_mistral_v3()),
}
"""A template of ours in place of the folder's, and how it is marked."""


@pytest.mark.parametrize("name", WITH_LOSSES)
def test_packed_unpacked_and_hugging_face_on_the_loss(
    name: str, real: Fetch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    template, mark = WITH_LOSSES[name]
    folder = request.getfixturevalue("mistral")(name) if name in ("v1", "v3") else real(name)
    if template:
        folder = folder_with(folder, tmp_path / "tokenizer", template)
    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    marked, model = mark(theirs.chat_template), losses.tiny_llama(len(theirs))

    @settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(records=st.lists(losses.conversations(system=name not in ("v1", "v3")), min_size=3, max_size=8))
    def check(records: list[Any]) -> None:
        losses.check(model, theirs, folder, marked, records, tmp_path)

    check()
