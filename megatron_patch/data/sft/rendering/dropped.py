"""What a chat template leaves out of a conversation: each message, then the tools, held against the rendering."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from megatron_patch.data.sft.formats import Conversation, MalformedRow
from megatron_patch.data.sft.rendering.fidelity import (
    CONTEXT,
    REASONING,
    TOOL,
    Dropped,
    missing,
    missing_context,
    renamed_tools,
)
from megatron_patch.data.sft.rendering.turns import Turn, Write

REMEMBERED = 1000
"""Lists of tools of which it is known whether the template writes them."""


@dataclass(kw_only=True)
class RenderingComparison:
    """Conversations against what one template writes."""

    write: Write
    _absent_tools: dict[str, list[str]] = field(default_factory=dict)
    """Names that are not written, by the roles of a conversation and its tools."""

    def dropped(self, conversation: Conversation, text: str, turns: list[Turn]) -> list[Dropped]:
        """What the conversation says and its rendering does not, message by message, then the tools.

        Args:
            turns: number and place of each assistant message.
        """
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
        alone = self.write(conversation.messages[: item.message], conversation.tools)
        return not any(other.what == REASONING for other in missing(message, item.message, alone))

    def _dropped_tools(self, conversation: Conversation, turns: list[Turn]) -> list[Dropped]:
        if not conversation.tools or len(turns) == len(conversation.context):
            return []
        key = json.dumps([[message["role"] for message in conversation.messages], conversation.tools])
        if key not in self._absent_tools:
            if len(self._absent_tools) >= REMEMBERED:
                self._absent_tools.clear()
            tools, marks = renamed_tools(conversation.tools)
            try:
                other = self.write(conversation.messages, tools)
            except MalformedRow:
                other = ""
            self._absent_tools[key] = [name for name, mark in marks if mark not in other]
        return [Dropped(what=TOOL, message=None, shown=repr(name)) for name in self._absent_tools[key]]
