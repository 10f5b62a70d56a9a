"""A conversation as text, as token ids, and as the turns that are trained.

The template is the tokenizer's own; without one, Llama 3.1's. Which characters the assistant wrote is known in two
ways. A template with `{% generation %}` blocks says it. For any other, the conversation is rendered up to each
assistant turn and through it: what the second rendering adds is that turn, provided that both are a prefix of the
whole. Where they are not, nothing can be masked rightly, and that is an error.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.formats import Conversation, MalformedRow, Message

LLAMA3_1_TEMPLATE = Path(__file__).parents[1] / "llama3_1_chat.jinja"
FIXED_DATE = "26 Jul 2024"
"""Llama 3.1's default; given to every template, so that the same data has the same tokens on any day."""

PROMPT, EARLIER_TURN, LAST_TURN = 0, 1, 2
"""The turn a token belongs to: none of the assistant's, one of its earlier ones, its last."""

Tokens = npt.NDArray[np.int32]
Turns = npt.NDArray[np.uint8]
Span = tuple[int, int]


class TemplateError(ValueError):
    """A chat template from which the assistant's turns cannot be told; says what to do."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as the model will read it."""

    text: str
    spans: list[Span]
    """Start and end, in characters, of each assistant turn with its end-of-turn token, in order."""


class ChatTemplate:
    """Renders conversations and finds the assistant's turns in them."""

    def __init__(self, text: str, *, source: str, named_tokens: Mapping[str, str], special_tokens: list[str]) -> None:
        """Args:
        text: Jinja.
        source: where the text comes from, for reports.
        named_tokens: `bos_token` and its like, which templates write.
        special_tokens: all of them: one of these ends a turn.
        """
        self.text = text
        self.source = source
        self.marked = re.search(r"\{%-?\s*generation\s*-?%\}", text) is not None
        """Whether the template says itself what the assistant wrote."""
        self._arguments: dict[str, Any] = {**named_tokens, "date_string": FIXED_DATE}
        self._turn_ends = tuple(special_tokens)
        self._special = re.compile("|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True))) or r"(?!)")

    @classmethod
    def of(cls, tokenizer: ChatTokenizer) -> ChatTemplate:
        """The tokenizer's own template, else Llama 3.1's.

        Raises:
            TemplateError: it has none, and lacks the tokens that Llama 3.1's is made of.
        """
        text, source = tokenizer.chat_template, f"of the tokenizer in {tokenizer.path}"
        if text is None:
            text, source = LLAMA3_1_TEMPLATE.read_text(encoding="utf-8"), "Llama 3.1's, as the tokenizer has none"
            wanted = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
            if missing := [token for token in wanted if tokenizer.backend.token_to_id(token) is None]:
                raise TemplateError(
                    f"{tokenizer.path} has no chat template, and Llama 3.1's needs {', '.join(missing)} in the "
                    "vocabulary: add a chat_template.jinja to the folder"
                )
        return cls(text, source=source, named_tokens=tokenizer.named_tokens, special_tokens=tokenizer.special_tokens)

    @property
    def sha256(self) -> str:
        """Of the template's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def follows_the_calendar(self) -> bool:
        """Whether it writes today's date in a way that `date_string` does not settle: a cache then lives one day."""
        return "strftime_now" in self.text and "date_string" not in self.text

    def spells_special_tokens(self, conversation: Conversation) -> bool:
        """Whether a text, tool or call of it holds what the tokenizer takes for a special token."""
        return any(self._special.search(text) for text in conversation.texts())

    def render(self, conversation: Conversation) -> Rendered:
        """The text, and where the assistant's turns are.

        Raises:
            MalformedRow: the template refuses this conversation; its own words are the message.
            TemplateError: the turns cannot be told apart.
        """
        numbers = [i for i, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        if self.marked:
            text, spans = self._render(conversation.messages, conversation.tools, tracked=True)
            if conversation.context:
                spans = [span for number, span in self._by_turn(numbers, spans) if number not in conversation.context]
            return Rendered(text=text, spans=[span for span in spans if span[0] < span[1]])
        text, _ = self._render(conversation.messages, conversation.tools)
        turns = [self._turn(conversation, number, text) for number in numbers if number not in conversation.context]
        return Rendered(text=text, spans=turns)

    def _by_turn(self, numbers: list[int], spans: list[Span]) -> list[tuple[int, Span]]:
        if len(numbers) != len(spans):
            what = f"{len(spans)} blocks of {{% generation %}} for {len(numbers)} turns of the assistant"
            raise MalformedRow(f"the chat template has {what}: which of them is not to be trained cannot be told")
        return list(zip(numbers, spans, strict=True))

    def _render(
        self, messages: list[Message], tools: Any, *, tracked: bool = False, prompt: bool = False
    ) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template  # half a second, not for every rank

        try:
            # Its annotation says str; it returns the texts and, if asked, the spans of each.
            rendered: Any = render_jinja_template(
                [messages],
                tools=tools,
                chat_template=self.text,
                return_assistant_tokens_mask=tracked,
                add_generation_prompt=prompt,
                **self._arguments,
            )
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"the chat template {self.source}: line {error.lineno}: {error.message}") from None
        except RecursionError:
            raise MalformedRow("nested too deep for the chat template") from None
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise MalformedRow(f"the chat template refuses it: {error}") from None
        texts, spans = rendered
        return str(texts[0]), list(spans[0]) if tracked else []

    def _turn(self, conversation: Conversation, number: int, whole: str) -> Span:
        """Characters of assistant message `number`: what it adds to the prompt in front of it."""
        messages, tools = conversation.messages, conversation.tools
        through = whole if number + 1 == len(messages) else self._render(messages[: number + 1], tools)[0]
        try:
            before, _ = self._render(messages[:number], tools, prompt=True)
        except MalformedRow:
            if number > 0:
                raise
            before = self._without_prompt(messages[0], through)
        if number == 0 and not through.startswith(before):  # a default system turn, say, in front of no messages only
            before = self._without_prompt(messages[0], through)
        if not (whole.startswith(through) and through.startswith(before)):
            other = through if not whole.startswith(through) else before
            raise TemplateError(
                f"the chat template {self.source} renders the start of a conversation differently once message "
                f"{number + 1} (assistant) is there: {_difference(whole, other)}. Its turns cannot be masked by "
                "comparing: put {% generation %} and {% endgeneration %} around what the assistant writes"
            )
        return len(before), self._end_of_turn(through, len(before))

    def _without_prompt(self, answer: Message, through: str) -> str:
        """Many templates cannot render an empty conversation: find the first answer by its text instead."""
        content = str(answer.get("content", "")).strip()
        if not content or through.count(content) != 1:
            raise MalformedRow("it begins with an assistant turn, and the chat template cannot render what precedes")
        return through[: through.index(content)]

    def _end_of_turn(self, text: str, start: int) -> int:
        """End of the turn's last special token; ChatML writes a line break behind it that nobody should learn."""
        stripped = text.rstrip()
        return len(stripped) if stripped.endswith(self._turn_ends) and len(stripped) > start else len(text)


def _difference(whole: str, part: str) -> str:
    pairs = enumerate(zip(whole, part, strict=False))
    at = next((i for i, (left, right) in pairs if left != right), min(len(whole), len(part)))
    return f"{whole[at : at + 30]!r} against {part[at : at + 30]!r}"


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
