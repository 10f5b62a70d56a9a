"""A conversation as the text that its chat template writes.

The template is the tokenizer's own, `tool_use` among them where the row has tools; without one, Llama 3.1's. Where
the assistant's turns are in the text is found by `turns`; what the row says and the text does not, by `dropped`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.formats import ChatMessage, Conversation, MalformedRow
from megatron_patch.data.sft.formats.common import REASONING_KEYS
from megatron_patch.data.sft.rendering.dropped import RenderingComparison
from megatron_patch.data.sft.rendering.fidelity import Dropped
from megatron_patch.data.sft.rendering.sandbox import BoundedTemplate, Span, TooMuchWork
from megatron_patch.data.sft.rendering.turns import TurnFinder, marked_turns
from megatron_patch.data.sft.rendering.variants import variants
from megatron_patch.data.tokenizers.chat import template_problem

LLAMA3_1_TEMPLATE = Path(__file__).parents[2] / "llama3_1_chat.jinja"
FIXED_DATE = "26 Jul 2024"
"""Llama 3.1's default; given to every template, so that the same data has the same tokens on any day."""
REFUSALS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What a template raises that does not suit a conversation, or Python below it."""


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


class ChatTemplate:
    """Renders conversations and finds the assistant's turns in them."""

    def __init__(
        self,
        text: str | Mapping[str, str],
        *,
        source: Message | str,
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
        self._words = frozenset(word for text in self.texts.values() for word in re.findall(r"\w+", text))
        self._writes_all = any(re.search(r"\b(messages?|msg)\s*\|\s*tojson", text) for text in self.texts.values())
        self._arguments: dict[str, Any] = {**named_tokens, "date_string": FIXED_DATE}
        self._special = re.compile("|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True))) or r"(?!)")
        self._special_tokens = tuple(special_tokens)
        self._compiled = {name: _Template(text=text, name=name, owner=self) for name, text in self.texts.items()}

    @classmethod
    def of(cls, tokenizer: ChatTokenizer) -> ChatTemplate:
        """The tokenizer's own template, else Llama 3.1's.

        Raises:
            TemplateError: it has none, and lacks the tokens that Llama 3.1's is made of.
        """
        texts, source = dict(tokenizer.chat_templates), Message("template-of", folder=tokenizer.path)
        if problem := template_problem(tokenizer.path, texts, tokenizer.has):
            raise TemplateError.of([problem])
        if not texts:
            texts, source = {"default": LLAMA3_1_TEMPLATE.read_text(encoding="utf-8")}, Message("template-llama")
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

    def reads(self, key: str) -> bool:
        """Whether it may read this key of a message: its text has the word. Reasoning that it does not read is told
        by `fidelity`."""
        return self._writes_all or key in REASONING_KEYS or self._words.issuperset(re.findall(r"\w+", key))

    def spells_special_tokens(self, conversation: Conversation) -> bool:
        """Whether a text, tool or call of it holds what the tokenizer takes for a special token."""
        return self._special.search("\0".join(conversation.texts())) is not None

    def ends(self, rendered: Rendered) -> bool:
        """Whether the last trained turn, if there is one, ends with a special token."""
        return not rendered.spans or rendered.text[: rendered.spans[-1][1]].rstrip().endswith(self._special_tokens)

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

    def prompt(self, messages: list[ChatMessage]) -> str:
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
        return self._choose(Conversation(messages=[])).finder.frame.end

    def _choose(self, conversation: Conversation) -> _Template:
        """As transformers: `tool_use` where there are tools and it exists."""
        name = "tool_use" if conversation.tools and "tool_use" in self._compiled else "default"
        if name not in self._compiled:
            raise MalformedRow("row-tools-alone", source=self.source)
        return self._compiled[name]


@dataclass(kw_only=True)
class _Template:
    """One Jinja text of a tokenizer."""

    text: str
    name: str
    owner: ChatTemplate

    @property
    def marked(self) -> bool:
        return re.search(r"\{%-?\s*generation\s*-?%\}", self.text) is not None

    @functools.cached_property
    def _jinja(self) -> BoundedTemplate:
        try:
            return BoundedTemplate(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError.at(self._called, "template-syntax", line=error.lineno, error=error.message) from None
        except TooMuchWork as error:
            raise TemplateError.of(error.about(self._called).messages) from None

    @property
    def _called(self) -> Message:
        if self.name == "default":
            return Message("template", source=self.owner.source)
        return Message("template-named", name=self.name, source=self.owner.source)

    @functools.cached_property
    def finder(self) -> TurnFinder:
        owner = self.owner
        return TurnFinder(write=self._write, special=owner._special, special_tokens=owner._special_tokens)

    @functools.cached_property
    def _comparison(self) -> RenderingComparison:
        return RenderingComparison(write=self._write)

    def render(self, conversation: Conversation) -> Rendered:
        conversation = dataclasses.replace(conversation, messages=list(map(_with_reasoning, conversation.messages)))
        if self.marked:
            text, spans = self._tracked(conversation)
            turns = marked_turns(conversation, spans)
        else:
            text = self._write(conversation.messages, conversation.tools)
            turns = self.finder.find(conversation, text)
        spans = [span for number, span in turns if number not in conversation.context]
        return Rendered(text=text, spans=spans, dropped=tuple(self._comparison.dropped(conversation, text, turns)))

    def prompt(self, messages: list[ChatMessage]) -> str:
        return self._write(messages, None, prompt=True)

    def _write(self, messages: list[ChatMessage], tools: Any, *, prompt: bool = False) -> str:
        return self._run(self._jinja.render, messages, tools, prompt)

    def _tracked(self, conversation: Conversation) -> tuple[str, list[Span]]:
        text, spans = self._run(self._jinja.render_tracked, conversation.messages, conversation.tools, False)
        return text, [span for span in spans if span[0] < span[1]]

    def _run[T](self, work: Callable[..., T], messages: list[ChatMessage], tools: Any, prompt: bool) -> T:
        values = {"messages": messages, "tools": tools, "documents": None}
        try:
            return work(**values, add_generation_prompt=prompt, **self.owner._arguments)
        except TooMuchWork as error:
            raise TemplateError.of(error.about(self._called).messages) from None
        except RecursionError:
            raise MalformedRow("row-template-deep") from None
        except REFUSALS as error:
            raise MalformedRow("row-template-refuses", error=str(error)) from None


def _with_reasoning(message: ChatMessage) -> ChatMessage:
    """Under both names that templates read. Source: transformers' `_alias_reasoning_fields`."""
    if not any(message.get(key) is not None for key in REASONING_KEYS):
        return message
    reasoning = next(message[key] for key in REASONING_KEYS if message.get(key) is not None)
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}
