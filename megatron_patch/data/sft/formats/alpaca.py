"""Alpaca's: an instruction and its answer in one record, also in NeMo's form; earlier turns in `history`."""

from __future__ import annotations

from megatron_patch.common.messages import Message
from megatron_patch.data.jsonl import json_kind
from megatron_patch.data.sft.formats.common import (
    COMMON,
    ChatMessage,
    Conversation,
    EmptyRow,
    Format,
    MalformedRow,
    Record,
    conversation_of,
    text_of,
)

INSTRUCTION_KEYS = ("instruction", "query", "prompt", "question", "input")
"""In the order of preference; `input` alone is NeMo's form."""
OUTPUT_KEYS = ("output", "content", "response", "answer")
REASONING = "reasoning_content"
"""Of the answer, as data that were written by a reasoning model have it."""


def _is_alpaca(record: Record) -> bool:
    question = _key_of(record, INSTRUCTION_KEYS)
    if question == "prompt" and "completion" in record:
        return False
    return question is not None and _key_of(record, OUTPUT_KEYS) is not None


def _key_of(record: Record, keys: tuple[str, ...]) -> str | None:
    """The first that holds something; in Parquet every row has the keys of all."""
    there = [key for key in keys if key in record]
    return next((key for key in there if record[key] is not None), there[0] if there else None)


def _others(record: Record) -> list[str]:
    """`response` beside `output`."""
    groups = INSTRUCTION_KEYS[:-1], OUTPUT_KEYS
    return [key for keys in groups for key in keys if record.get(key) and key != _key_of(record, keys)]


def _from_alpaca(record: Record) -> Conversation:
    """Instruction and input are joined by a line break, as in LLaMA-Factory; Pai joins them with nothing."""
    question, answer = _key_of(record, INSTRUCTION_KEYS), _key_of(record, OUTPUT_KEYS)
    assert question is not None and answer is not None
    parts = [text_of(record[question], question)]
    if question != "input" and record.get("input") is not None:
        parts.append(text_of(record["input"], "input"))
    prompt = "\n".join(part for part in parts if part.strip())
    reply = text_of(record[answer] if record[answer] is not None else "", answer)
    if not prompt:
        raise EmptyRow("row-empty", key="input") if question == "input" else EmptyRow("row-both-empty", key=question)
    if not reply.strip():
        raise EmptyRow("row-empty", key=answer)
    answered: ChatMessage = {"role": "assistant", "content": reply}
    if record.get(REASONING) is not None:
        answered[REASONING] = record[REASONING]
    turns = _history(record.get("history"))
    return conversation_of([*turns, {"role": "user", "content": prompt}, answered], record)


def _history(pairs: object) -> list[ChatMessage]:
    if pairs in (None, "", []):
        return []
    if not isinstance(pairs, list):
        raise MalformedRow("row-history-kind", kind=json_kind(pairs))
    turns: list[ChatMessage] = []
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise MalformedRow("row-history-entry", number=number)
        for role, text in zip(("user", "assistant"), pair, strict=True):
            turns.append({"role": role, "content": text_of(text, Message("part-history", number=number, role=role))})
    return turns


FORMAT = Format(
    name="alpaca",
    wanted="instruction|query|prompt|question|input + output|content|response|answer",
    keys=COMMON | {*INSTRUCTION_KEYS, *OUTPUT_KEYS, REASONING, "history"},
    matches=_is_alpaca,
    convert=_from_alpaca,
    others=_others,
)
