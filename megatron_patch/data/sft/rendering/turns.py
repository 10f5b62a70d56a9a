"""Where the assistant's turns are in a conversation that a chat template has written.

A template with `{% generation %}` blocks says it. For any other, the conversation is rendered up to each assistant
turn and through it: what the second rendering adds is that turn, provided that both are a prefix of the whole. Where
they are not (reasoning models rewrite earlier turns), the message is given other words: where the whole then changes,
there it stands.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, Protocol

from megatron_patch.data.sft.formats import ChatMessage, Conversation, MalformedRow
from megatron_patch.data.sft.formats.common import REASONING_KEYS
from megatron_patch.data.sft.rendering.fidelity import reasoning_of
from megatron_patch.data.sft.rendering.sandbox import Span

OTHER_WORDS = "\ue0f0\ue0f1"
"""Of Unicode's private use: no text begins or ends with them."""

Turn = tuple[int, Span]
"""Number of an assistant message, from 0, and its characters, with the end-of-turn token."""


class Write(Protocol):
    """Renders messages."""

    def __call__(self, messages: list[ChatMessage], tools: Any, *, prompt: bool = False) -> str:
        """Raises MalformedRow where the template refuses them.

        Args:
            prompt: with the header of the assistant's turn behind them.
        """


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


@dataclass(kw_only=True)
class TurnFinder:
    """Finds turns by rendering a conversation again with something changed."""

    write: Write
    special: re.Pattern[str]
    """Any of the special tokens: one of these ends a turn."""
    special_tokens: tuple[str, ...]

    @functools.cached_property
    def frame(self) -> Frame:
        """Header, end and appended header, from a conversation of three words."""
        messages = [{"role": role, "content": f"zq{role}qz"} for role in ("user", "assistant", "user")]
        try:
            asked, prompted = self.write(messages[:1], None), self.write(messages[:1], None, prompt=True)
            answered = self.write(messages[:2], None)
            onwards = self.write(messages, None) if asked == prompted else answered
        except MalformedRow:
            return Frame()
        front, found, tail = answered.rpartition("zqassistantqz")
        end = self.special.search(tail) if found else None
        appended = tail[end.end() :] if end and not onwards.startswith(answered) else ""
        appended = appended if asked.endswith(appended) else ""
        header = prompted[len(asked) :] if prompted.startswith(asked) else ""
        lead = front[len(prompted) :] if found and front.startswith(prompted) else ""
        return Frame(header=header or appended, lead=lead, end=end.group() if end else "", appended=appended)

    def find(self, conversation: Conversation, whole: str) -> list[Turn]:
        """Number and place of each assistant message.

        Args:
            whole: the conversation as the template writes it.
        Raises:
            MalformedRow: the template leaves a turn out, or it cannot be told where one begins.
        """
        messages = conversation.messages
        numbers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        found: list[Turn] = []
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
            through = whole if number + 1 == len(messages) else self.write(messages[: number + 1], tools)
            through = through.removesuffix(self.frame.appended)
            before = self.write(messages[:number], tools, prompt=True)
        except MalformedRow:
            return None
        if not (whole.startswith(through) and through.startswith(before)):
            return None
        return len(before), self._end_of_turn(through, len(before))

    def _end_of_turn(self, text: str, start: int) -> int:
        """End of the turn's last special token; ChatML writes a line break behind it that nobody should learn."""
        stripped = text.rstrip()
        return len(stripped) if stripped.endswith(self.special_tokens) and len(stripped) > start else len(text)

    def _by_other_words(self, conversation: Conversation, number: int, whole: str, least: int) -> Span:
        """From the header in front of what changes with the message to the end token behind it.

        Args:
            least: the turn does not begin before.
        """
        messages = conversation.messages
        place = self._place(conversation, number, whole)
        if place is None:
            raise MalformedRow("row-message-left-out", number=number + 1)
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
            start = _common(whole, self.write(messages, conversation.tools))
        except MalformedRow:
            start = -1
        if least < start < most:
            return start
        if "tool_calls" not in messages[number]:
            raise MalformedRow("row-calls-begin", number=number + 1)
        lead = self.frame.lead
        return most - len(lead) if whole.endswith(lead, least, most) else most

    def _end_behind(self, whole: str, at: int, most: int) -> int:
        end = whole.find(self.frame.end, at, most) if self.frame.end else -1
        if end >= 0:
            return end + len(self.frame.end)
        found = self.special.search(whole, at, most)
        return found.end() if found else at

    def _place(self, conversation: Conversation, number: int, whole: str) -> Span | None:
        """Characters of the whole that are other ones when message `number` has other words; None if none are."""
        messages = list(conversation.messages)
        messages[number] = _with_other_words(messages[number])
        try:
            other = self.write(messages, conversation.tools)
        except MalformedRow:
            return None
        if other == whole:
            return None
        start = _common(whole, other)
        end = _common(whole[start:][::-1], other[start:][::-1])
        return start, len(whole) - end


def marked_turns(conversation: Conversation, spans: list[Span]) -> list[Turn]:
    """Number and place of each assistant message of a template that marks them.

    Raises:
        MalformedRow: other blocks than messages, where one of these is not to be trained.
    """
    numbers = [number for number, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    if len(numbers) == len(spans):
        return list(zip(numbers, spans, strict=True))
    if conversation.context:
        raise MalformedRow("row-blocks", blocks=len(spans), turns=len(numbers))
    return [(-1 - at, span) for at, span in enumerate(spans)]


def _with_other_words(message: ChatMessage) -> ChatMessage:
    changed = dict(message)
    if changed.get("content") or not changed.get("tool_calls"):
        changed["content"] = OTHER_WORDS
    if reasoning_of(message):
        changed |= {key: OTHER_WORDS for key in REASONING_KEYS if key in message}
    if calls := changed.get("tool_calls"):
        function = {"name": OTHER_WORDS, "arguments": {OTHER_WORDS: OTHER_WORDS}}
        changed["tool_calls"] = [{**call, "function": function} for call in calls]
    return changed


def _of_the_other_kind(message: ChatMessage) -> ChatMessage:
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
