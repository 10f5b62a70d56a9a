"""MP_MEGATRON_ARGS held against Megatron's parser before anything starts: which flags exist, what they take, which of
them do nothing here.

`megatron_flags.txt` is the table of the pinned wheel's parser together with ours (`trainer/arguments.py`): flag, number
of values, type, choices; `unread` where nothing in the wheel reads the value. tests/launch/test_megatron_flags.py makes
it (`UPDATE_GOLDEN=1`) and holds it. Megatron's parser takes no abbreviations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_patch.common.values import nearest_word

TABLE = Path(__file__).with_suffix(".txt")

INERT = {
    "--rampup-batch-size": "0.19.2 reads it nowhere but in a warning: the batch would not ramp up",
    "--reset-attention-mask": "no mask is made or passed: the kernels are causal over the whole sequence",
    "--reset-position-ids": "rotary embeddings count from the start of a sequence, whatever the position ids say",
    "--dataloader-inter-document-masking": "0.19.2 counts other FLOPs for it and masks nothing",
    "--fim-data": "the data set is ours, and it knows no fill in the middle",
    "--num-experts": "the plan, the checkpoints and the layers are those of a dense model",
    "--num-layers-per-virtual-pipeline-stage": "it is MP_VP",
    "--sft": "it is position 16, SFT",
}
"""Flags that reach Megatron and do nothing in a run of ours, or something else than they say; with the reason."""
INERT_ON_CPU = {"--log-straggler": "it times CUDA events"}


@dataclass(frozen=True)
class Flag:
    """One row of the table."""

    name: str
    arity: str
    """0, 1, another number, `+` (one or more) or `*` (any)."""
    kind: str
    """int, float, str or other (a type that only Megatron can read)."""
    choices: tuple[str, ...]
    unread: bool

    def wrong(self, values: Sequence[str]) -> str:
        """What is wrong with the values of a flag; empty if nothing."""
        fits = {"+": len(values) > 0, "*": True}.get(self.arity)
        if not (str(len(values)) == self.arity if fits is None else fits):
            return f"{self.name} takes {ARITIES.get(self.arity, f'{self.arity} values')}, here {len(values)}"
        for value in values:
            if self.choices and value not in self.choices:
                return f"{self.name} takes {', '.join(self.choices)}, not {value!r}"
            if self.kind in NUMBERS and not re.fullmatch(NUMBERS[self.kind], value):
                return f"{self.name} takes {'a whole number' if self.kind == 'int' else 'a number'}, not {value!r}"
        return ""


NUMBERS = {"int": r"[+-]?[0-9_]+", "float": r"[+-]?(inf|nan|([0-9_]+\.?[0-9_]*|\.[0-9_]+)([eE][+-]?[0-9]+)?)"}
ARITIES = {"0": "no value", "1": "one value", "+": "one value or more"}


def read_table() -> dict[str, Flag]:
    """The table by flag."""
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        names, arity, kind, *rest = line.split(" ")
        choices = tuple(rest[0].split(",")) if rest and rest[0] != "unread" else ()
        for name in names.split(","):
            found[name] = Flag(name, arity, kind, choices, rest[-1:] == ["unread"])
    return found


def faults(words: Sequence[str], taken: frozenset[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with more flags for Megatron, and what would be right.

    Args:
        words: MP_MEGATRON_ARGS, split.
        taken: flags that the plan decides.
    """
    table = read_table()
    for name, values in grouped(words):
        if not name:
            yield f"{values[0]!r} belongs to no flag", "flags that begin with --"
        elif name in INERT:
            yield f"{name} is not taken: {INERT[name]}", "without it"
        elif name in taken:
            yield (
                f"{name}: decided by the 25 values and the MP_ variables",
                "flags that the driver does not give itself",
            )
        elif name not in table:
            near = nearest_word(name, tuple(set(table) - taken - set(INERT)))
            hint = f"; nearest: {near}" if near else ""
            yield f"Megatron's parser (megatron-core 0.19.2) knows no {name}{hint}", "a flag that it knows, written out"
        elif table[name].unread:
            yield f"{name} does nothing: nothing in megatron-core 0.19.2 reads it", "without it"
        elif said := table[name].wrong(values):
            yield said, "the flag's values, as Megatron's parser takes them"


def grouped(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with its values; the name is empty for values before the first flag."""
    name, values = "", list[str]()
    for word in words:
        if re.match(r"-+[A-Za-z]", word):
            if name or values:
                yield name, values
            name, equals, value = word.partition("=")
            values = [value] if equals else []
        else:
            values.append(word)
    if name or values:
        yield name, values
