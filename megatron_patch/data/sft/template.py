"""A conversation as text, and the turns in it that are trained.

The template is the tokenizer's own, `tool_use` among them where the row has tools; without one, Llama 3.1's. Which
characters the assistant wrote is known in three ways. A template with `{% generation %}` blocks says it. For any
other, the conversation is rendered up to each assistant turn and through it: what the second rendering adds is that
turn, provided that both are a prefix of the whole. Where they are not (reasoning models rewrite earlier turns), the
message is given other words: where the whole then changes, there it stands.

Then the rendering is held against the row: see `fidelity`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from megatron_patch.common.errors import UserError
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.fidelity import (
    CONTEXT,
    REASONING,
    REASONING_KEYS,
    TOOL,
    Dropped,
    missing,
    missing_context,
    reasoning_of,
    renamed_tools,
)
from megatron_patch.data.sft.formats import Conversation, MalformedRow, Message
from megatron_patch.data.sft.sandbox import BoundedTemplate, Span, TooMuchWork
from megatron_patch.data.sft.variants import variants

LLAMA3_1_TEMPLATE = Path(__file__).parents[1] / "llama3_1_chat.jinja"
FIXED_DATE = "26 Jul 2024"
"""Llama 3.1's default; given to every template, so that the same data has the same tokens on any day."""

PROMPT, EARLIER_TURN, LAST_TURN = 0, 1, 2
"""The turn a token belongs to: none of the assistant's, one of its earlier ones, its last."""

Tokens = npt.NDArray[np.int32]
Turns = npt.NDArray[np.uint8]
REMEMBERED = 1000
"""Lists of tools of which it is known whether the template writes them."""
REFUSALS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What a template raises that does not suit a conversation, or Python below it."""
OTHER_WORDS = "\ue0f0\ue0f1"
"""Of Unicode's private use: no text begins or ends with them."""


class TemplateError(UserError, ValueError):
    """A chat template that cannot be used; says what to do."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as the model will read it."""

    text: str
    spans: list[Span]
    """Start and end, in characters, of each trained turn with its end-of-turn token, in order."""
    dropped: tuple[Dropped, ...] = ()
    """What the row says and the text does not."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a template writes around every turn of the assistant's."""

    header: str = ""
    """In front of it: the generation prompt."""
    lead: str = ""
    """What the turn itself begins with in front of its text."""
    end: str = ""
    """The special token that ends it."""
    appended: str = ""
    """A header behind the whole conversation, which is written whether it is asked for or not."""


class ChatTemplate:
    """Renders conversations and finds the assistant's turns in them."""

    def __init__(
        self,
        text: str | Mapping[str, str],
        *,
        source: str,
        named_tokens: Mapping[str, str],
        special_tokens: list[str],
    ) -> None:
        """Args:
        text: Jinja, or several by name, of which `default` and `tool_use` are used.
        source: where the text comes from, for reports.
        named_tokens: `bos_token` and its like, which templates write.
        special_tokens: all of them: one of these ends a turn.
        """
        self.texts = {"default": text} if isinstance(text, str) else dict(text)
        self.source = source
        self._arguments: dict[str, Any] = {**named_tokens, "date_string": FIXED_DATE}
        self._special = re.compile("|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True))) or r"(?!)")
        self._ends = tuple(special_tokens)
        self._compiled = {name: _Template(text=text, name=name, owner=self) for name, text in self.texts.items()}

    @classmethod
    def of(cls, tokenizer: ChatTokenizer) -> ChatTemplate:
        """The tokenizer's own template, else Llama 3.1's.

        Raises:
            TemplateError: it has none, and lacks the tokens that Llama 3.1's is made of.
        """
        texts, source = dict(tokenizer.chat_templates), f"of the tokenizer in {tokenizer.path}"
        if texts and not texts.keys() & {"default", "tool_use"}:
            raise TemplateError(f"{tokenizer.path} has chat templates {', '.join(texts)}, and none called 'default'")
        if not texts:
            texts = {"default": LLAMA3_1_TEMPLATE.read_text(encoding="utf-8")}
            source = "Llama 3.1's, as the tokenizer has none"
            wanted = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
            if absent := [token for token in wanted if tokenizer.backend.token_to_id(token) is None]:
                raise TemplateError(
                    f"{tokenizer.path} has no chat template, and Llama 3.1's needs {', '.join(absent)} in the "
                    "vocabulary: add a chat_template.jinja to the folder"
                )
        return cls(texts, source=source, named_tokens=tokenizer.named_tokens, special_tokens=tokenizer.special_tokens)

    @property
    def text(self) -> str:
        """The template of conversations without tools."""
        return self.texts.get("default") or next(iter(self.texts.values()))

    @property
    def marked(self) -> bool:
        """Whether it says itself what the assistant wrote."""
        return all(template.marked for template in self._compiled.values())

    @property
    def sha256(self) -> str:
        """Of the template's text; of all names and texts where there are several."""
        only = self.texts.keys() == {"default"}
        return hashlib.sha256((self.text if only else repr(sorted(self.texts.items()))).encode()).hexdigest()

    @property
    def follows_the_calendar(self) -> bool:
        """Whether it writes today's date in a way that `date_string` does not settle: a cache then lives one day."""
        return any("strftime_now" in text and "date_string" not in text for text in self.texts.values())

    def spells_special_tokens(self, conversation: Conversation) -> bool:
        """Whether a text, tool or call of it holds what the tokenizer takes for a special token."""
        return self._special.search("\0".join(conversation.texts())) is not None

    def render(self, conversation: Conversation) -> Rendered:
        """The text, where the trained turns are, and what the text lacks.

        Raises:
            MalformedRow: the template refuses this conversation (its own words are the message), or its turns
                cannot be told apart.
            TemplateError: no template, or one that cannot be used at all.
        """
        template = self._choose(conversation)
        refused: MalformedRow | None = None
        for variant in variants(conversation, template.text):
            try:
                return template.render(variant)
            except MalformedRow as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def prompt(self, messages: list[Message]) -> str:
        """A conversation up to the place where the assistant writes, its header there.

        Raises:
            MalformedRow: the template refuses these messages.
            TemplateError: it cannot be used at all.
        """
        conversation = Conversation(messages=messages)
        return self._choose(conversation).prompt(messages)

    @property
    def end(self) -> str:
        """The special token that ends a turn of the assistant's; empty if there is none."""
        return self._choose(Conversation(messages=[])).frame.end

    def _choose(self, conversation: Conversation) -> _Template:
        """As transformers: `tool_use` where there are tools and it exists."""
        name = "tool_use" if conversation.tools and "tool_use" in self._compiled else "default"
        if name not in self._compiled:
            raise MalformedRow(f"it has no tools, and the chat templates {self.source} are for tools alone")
        return self._compiled[name]


@dataclass(kw_only=True)
class _Template:
    """One Jinja text of a tokenizer."""

    text: str
    name: str
    owner: ChatTemplate
    _absent_tools: dict[str, list[str]] = field(default_factory=dict)
    """Names that are not written, by the roles of a conversation and its tools."""

    @property
    def marked(self) -> bool:
        return re.search(r"\{%-?\s*generation\s*-?%\}", self.text) is not None

    @functools.cached_property
    def _jinja(self) -> BoundedTemplate:
        try:
            return BoundedTemplate(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{self._called}: line {error.lineno}: {error.message}") from None
        except TooMuchWork as error:
            raise TemplateError(f"{self._called}: {error}") from None

    @property
    def _called(self) -> str:
        called = "" if self.name == "default" else f" {self.name!r}"
        return f"the chat template{called} {self.owner.source}"

    def render(self, conversation: Conversation) -> Rendered:
        conversation = dataclasses.replace(conversation, messages=list(map(_with_reasoning, conversation.messages)))
        if self.marked:
            text, spans = self._tracked(conversation)
            turns = _by_message(conversation, spans)
        else:
            text = self._write(conversation.messages, conversation.tools)
            turns = self._turns(conversation, text)
        spans = [span for number, span in turns if number not in conversation.context]
        return Rendered(text=text, spans=spans, dropped=tuple(self._dropped(conversation, text, turns)))

    def prompt(self, messages: list[Message]) -> str:
        return self._write(messages, None, prompt=True)

    def _write(self, messages: list[Message], tools: Any, *, prompt: bool = False) -> str:
        return self._run(self._jinja.render, messages, tools, prompt)

    def _tracked(self, conversation: Conversation) -> tuple[str, list[Span]]:
        text, spans = self._run(self._jinja.render_tracked, conversation.messages, conversation.tools, False)
        return text, [span for span in spans if span[0] < span[1]]

    def _run[T](self, work: Callable[..., T], messages: list[Message], tools: Any, prompt: bool) -> T:
        values = {"messages": messages, "tools": tools, "documents": None}
        try:
            return work(**values, add_generation_prompt=prompt, **self.owner._arguments)
        except TooMuchWork as error:
            raise TemplateError(f"{self._called}: {error}") from None
        except RecursionError:
            raise MalformedRow("nested too deep for the chat template") from None
        except REFUSALS as error:
            raise MalformedRow(f"the chat template refuses it: {error}") from None

    @functools.cached_property
    def frame(self) -> Frame:
        """Header, end and appended header, from a conversation of three words."""
        messages = [{"role": role, "content": f"zq{role}qz"} for role in ("user", "assistant", "user")]
        try:
            asked, prompted = self._write(messages[:1], None), self._write(messages[:1], None, prompt=True)
            answered = self._write(messages[:2], None)
            onwards = self._write(messages, None) if asked == prompted else answered
        except MalformedRow:
            return Frame()
        front, found, tail = answered.rpartition("zqassistantqz")
        end = self.owner._special.search(tail) if found else None
        appended = tail[end.end() :] if end and not onwards.startswith(answered) else ""
        appended = appended if asked.endswith(appended) else ""
        header = prompted[len(asked) :] if prompted.startswith(asked) else ""
        lead = front[len(prompted) :] if found and front.startswith(prompted) else ""
        return Frame(header=header or appended, lead=lead, end=end.group() if end else "", appended=appended)

    def _turns(self, conversation: Conversation, whole: str) -> list[tuple[int, Span]]:
        """Number and place of each assistant message."""
        messages = conversation.messages
        numbers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        found: list[tuple[int, Span]] = []
        for number in numbers:
            span = self._by_prefix(conversation, number, whole)
            if span is None:
                span = self._by_other_words(conversation, number, whole, found[-1][1][1] if found else 0)
            found.append((number, span))
        return found

    def _by_prefix(self, conversation: Conversation, number: int, whole: str) -> Span | None:
        """What message `number` adds to the prompt in front of it; None if that is not a part of the whole."""
        messages, tools = conversation.messages, conversation.tools
        try:
            through = whole if number + 1 == len(messages) else self._write(messages[: number + 1], tools)
            through = through.removesuffix(self.frame.appended)
            before = self._write(messages[:number], tools, prompt=True)
        except MalformedRow:
            return None
        if not (whole.startswith(through) and through.startswith(before)):
            return None
        return len(before), self._end_of_turn(through, len(before))

    def _end_of_turn(self, text: str, start: int) -> int:
        """End of the turn's last special token; ChatML writes a line break behind it that nobody should learn."""
        stripped = text.rstrip()
        return len(stripped) if stripped.endswith(self.owner._ends) and len(stripped) > start else len(text)

    def _by_other_words(self, conversation: Conversation, number: int, whole: str, least: int) -> Span:
        """From the header in front of what changes with the message to the end token behind it.

        Args:
            least: the turn does not begin before.
        """
        messages = conversation.messages
        place = self._place(conversation, number, whole)
        if place is None:
            raise MalformedRow(f"the chat template leaves out message {number + 1} (assistant) altogether")
        before = self._place(conversation, number - 1, whole) if number else None
        behind = self._place(conversation, number + 1, whole) if number + 1 < len(messages) else None
        least = max(least, before[1] if before and before[1] <= place[0] else 0)
        most = behind[0] if behind and behind[0] >= place[1] else len(whole) - len(self.frame.appended)
        return self._start(conversation, number, whole, least, place[0]), self._end_behind(whole, place[1], most)

    def _start(self, conversation: Conversation, number: int, whole: str, least: int, most: int) -> int:
        """Behind the header; without one, where a call in place of an answer, or the reverse, begins to differ.

        Raises:
            MalformedRow: a call whose beginning is known by neither.
        """
        header = whole.rfind(self.frame.header, least, most) if self.frame.header else -1
        if header >= 0:
            return header + len(self.frame.header)
        messages = list(conversation.messages)
        messages[number] = _of_the_other_kind(messages[number])
        try:
            start = _common(whole, self._write(messages, conversation.tools))
        except MalformedRow:
            start = -1
        if least < start < most:
            return start
        if "tool_calls" not in messages[number]:
            raise MalformedRow(f"the chat template does not let one tell where the calls of message {number + 1} begin")
        lead = self.frame.lead
        return most - len(lead) if whole.endswith(lead, least, most) else most

    def _end_behind(self, whole: str, at: int, most: int) -> int:
        end = whole.find(self.frame.end, at, most) if self.frame.end else -1
        if end >= 0:
            return end + len(self.frame.end)
        found = self.owner._special.search(whole, at, most)
        return found.end() if found else at

    def _place(self, conversation: Conversation, number: int, whole: str) -> Span | None:
        """Characters of the whole that are other ones when message `number` has other words; None if none are."""
        messages = list(conversation.messages)
        messages[number] = _with_other_words(messages[number])
        try:
            other = self._write(messages, conversation.tools)
        except MalformedRow:
            return None
        if other == whole:
            return None
        start = _common(whole, other)
        end = _common(whole[start:][::-1], other[start:][::-1])
        return start, len(whole) - end

    def _dropped(self, conversation: Conversation, text: str, turns: list[tuple[int, Span]]) -> list[Dropped]:
        found: list[Dropped] = []
        spans, at = dict(turns), 0
        starts = [start for number, (start, _) in turns if number >= 0]
        for number, message in enumerate(conversation.messages):
            start, end = spans.get(number, (0, len(text)))
            if message["role"] in CONTEXT:
                behind = min((each for each in starts if each >= at), default=len(text))
                found += missing_context(message, number + 1, text, (at, behind))
                continue
            lacks = missing(message, number + 1, text[start:end])
            is_context = number in conversation.context
            found += [item for item in lacks if item.what != REASONING] if is_context else lacks
            at = end if number in spans else at
        reasoning = [item for item in found if item.what == REASONING]
        if reasoning:
            found = [dataclasses.replace(item, by_design=self._by_design(conversation, item)) for item in found]
        return found + self._dropped_tools(conversation, turns)

    def _by_design(self, conversation: Conversation, item: Dropped) -> bool:
        """Whether reasoning would be there if its turn were the last."""
        if item.what != REASONING or not item.message or item.message == len(conversation.messages):
            return False
        message = conversation.messages[item.message - 1]
        alone = self._write(conversation.messages[: item.message], conversation.tools)
        return not any(other.what == REASONING for other in missing(message, item.message, alone))

    def _dropped_tools(self, conversation: Conversation, turns: list[tuple[int, Span]]) -> list[Dropped]:
        if not conversation.tools or len(turns) == len(conversation.context):
            return []
        key = json.dumps([[message["role"] for message in conversation.messages], conversation.tools])
        if key not in self._absent_tools:
            if len(self._absent_tools) >= REMEMBERED:
                self._absent_tools.clear()
            tools, marks = renamed_tools(conversation.tools)
            try:
                other = self._write(conversation.messages, tools)
            except MalformedRow:
                other = ""
            self._absent_tools[key] = [name for name, mark in marks if mark not in other]
        return [Dropped(what=TOOL, message=None, shown=repr(name)) for name in self._absent_tools[key]]


def _by_message(conversation: Conversation, spans: list[Span]) -> list[tuple[int, Span]]:
    """Number and place of each assistant message of a template that marks them.

    Raises:
        MalformedRow: other blocks than messages, where one of these is not to be trained.
    """
    numbers = [number for number, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    if len(numbers) == len(spans):
        return list(zip(numbers, spans, strict=True))
    if conversation.context:
        raise MalformedRow(
            f"the chat template marks {len(spans)} blocks for {len(numbers)} assistant turns, so that it cannot be "
            "told which of them has weight 0"
        )
    return [(-1 - at, span) for at, span in enumerate(spans)]


def _with_reasoning(message: Message) -> Message:
    """Under both names that templates read. Source: transformers' `_alias_reasoning_fields`."""
    if not any(message.get(key) is not None for key in REASONING_KEYS):
        return message
    reasoning = next(message[key] for key in REASONING_KEYS if message.get(key) is not None)
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _with_other_words(message: Message) -> Message:
    changed = dict(message)
    if changed.get("content") or not changed.get("tool_calls"):
        changed["content"] = OTHER_WORDS
    if reasoning_of(message):
        changed |= {key: OTHER_WORDS for key in REASONING_KEYS if key in message}
    if calls := changed.get("tool_calls"):
        function = {"name": OTHER_WORDS, "arguments": {OTHER_WORDS: OTHER_WORDS}}
        changed["tool_calls"] = [{**call, "function": function} for call in calls]
    return changed


def _of_the_other_kind(message: Message) -> Message:
    """A call where it is an answer, an answer where it is a call."""
    if message.get("tool_calls"):
        return {"role": message["role"], "content": OTHER_WORDS}
    function = {"name": OTHER_WORDS, "arguments": {OTHER_WORDS: OTHER_WORDS}}
    return {
        "role": message["role"],
        "content": "",
        "tool_calls": [{"type": "function", "id": "0" * 9, "function": function}],
    }


def _common(left: str, right: str) -> int:
    """Characters that both begin with."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[:middle] == right[:middle] else (low, middle - 1)
    return low


def one_by_one(conversation: Conversation) -> list[Conversation]:
    """A conversation for each trained turn, which is its last and alone is trained: earlier reasoning is then there."""
    assistants = [number for number, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    return [
        dataclasses.replace(
            conversation,
            messages=conversation.messages[: number + 1],
            context=frozenset(other for other in assistants if other < number),
        )
        for number in assistants
        if number not in conversation.context
    ]


LOSSES = ("assistant", "last", "all")


def trained(turns: Turns, loss: str) -> npt.NDArray[np.bool_]:
    """Which tokens are learned: as targets, so never the first of a sample.

    Args:
        turns: [n], of `Encoder.encode`.
        loss: `assistant` (every turn of it), `last` (its last turn only), `all` (prompts too).
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; valid: {', '.join(LOSSES)}")
    mask = turns >= {"all": PROMPT, "assistant": EARLIER_TURN, "last": LAST_TURN}[loss]
    mask[:1] = False
    return mask
