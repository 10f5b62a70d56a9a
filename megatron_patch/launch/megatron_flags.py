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

from megatron_patch.common.messages import Message
from megatron_patch.common.values import nearest_word

TABLE = Path(__file__).with_suffix(".txt")

REFUSED = {
    "inert-rampup": "--rampup-batch-size",
    "inert-mask": "--reset-attention-mask",
    "inert-positions": "--reset-position-ids",
    "inert-documents": "--dataloader-inter-document-masking",
    "inert-experts": "--num-experts",
    "instead-vp": "--num-layers-per-virtual-pipeline-stage",
    "instead-sft": "--sft",
    "instead-data": "--data-args-path --per-split-data-args-path",
    "instead-start": "--override-ckpt-iteration --pretrained-checkpoint",
    "instead-ranks": "--fake-process-group",
    "instead-rates": "--use-checkpoint-opt-param-scheduler",
    "instead-recompute": "--recompute-activations",
    "instead-gradients": "--accumulate-allreduce-grads-in-fp32",
    "instead-tokenizer": "--merge-file --vocab-file",
    "instead-plan": "--yaml-cfg",
    "instead-layers": "--decoder-num-layers",
    "instead-length": "--decoder-seq-length",
    "gone-batch": "--batch-size",
    "gone-warmup": "--warmup",
    "gone-tp": "--model-parallel-size",
    "gone-recompute": "--checkpoint-activations",
    "fails-phases": "--phase-transition-iterations",
    "another-architecture": """
        --activation-func-clamp-value --apply-layernorm-1p --apply-residual-connection-post-layernorm
        --attention-output-gate --experimental-attention-variant --glu-linear-offset
        --heterogeneous-layers-config-encoded-json --heterogeneous-layers-config-path --hybrid-layer-pattern
        --hybrid-override-pattern --is-hybrid-model --linear-attention-freq --mrope-section --mtp-num-layers
        --multi-latent-attention --no-position-embedding --no-rope-freq --openai-gelu --qk-l2-norm --quick-geglu
        --rope-type --rotary-interleaved --rotary-percent --rotary-seq-len-interpolation-factor --softmax-type
        --squared-relu --use-mup --use-rotary-position-embeddings --window-attn-skip-freq --window-size
    """,
}
"""Flags that reach Megatron and do nothing in a run of ours, or something else than the plan says; by the reason."""
FAMILIES = {
    "--bert-": "inert-model",
    "--dino-": "inert-model",
    "--dsa-": "inert-model",
    "--expert-": "inert-experts",
    "--fim-": "inert-fim",
    "--grpo-": "inert-generation",
    "--inference-": "inert-generation",
    "--linear-": "inert-model",
    "--mamba-": "inert-model",
    "--moe-": "inert-experts",
    "--mtp-": "inert-model",
    "--mup-": "inert-model",
    "--non-persistent-": "instead-saves",
    "--rl-": "inert-generation",
    "--vision-": "inert-model",
}
"""The same for all flags that begin so: they belong to models and jobs that there are none of here."""
INERT = {name: Message(code) for code, names in REFUSED.items() for name in names.split()}
FULL_VALIDATION, MANY_SETS = "--full-validation", "--multiple-validation-sets"
SKIP, EXIT = "--iterations-to-skip", "--exit-interval"
INERT_ON_CPU = {"--log-straggler": Message("inert-straggler")}


@dataclass(frozen=True)
class MegatronFlag:
    """One row of the table."""

    name: str
    names: tuple[str, ...]
    """All spellings that fill the same argument, this one among them."""
    arity: str
    """0, 1, another number, `+` (one or more) or `*` (any)."""
    kind: str
    """int, float, str or other (a type that only Megatron can read)."""
    choices: tuple[str, ...]
    unread: bool

    def wrong(self, values: Sequence[str]) -> Message | None:
        """What is wrong with the values of a flag; None if nothing."""
        fits = {"+": len(values) > 0, "*": True}.get(self.arity)
        if not (str(len(values)) == self.arity if fits is None else fits):
            wanted = Message("flag-takes-some") if self.arity == "+" else Message("flag-takes", count=int(self.arity))
            return Message("flag-count", flag=self.name, wanted=wanted, given=len(values))
        for value in values:
            if self.choices and value not in self.choices:
                return Message("flag-choice", flag=self.name, choices=self.choices, value=repr(value))
            if self.kind in NUMBERS and not re.fullmatch(NUMBERS[self.kind], value):
                code = "flag-whole" if self.kind == "int" else "flag-number"
                return Message(code, flag=self.name, value=repr(value))
        return None


NUMBERS = {"int": r"[+-]?[0-9_]+", "float": r"[+-]?(inf|nan|([0-9_]+\.?[0-9_]*|\.[0-9_]+)([eE][+-]?[0-9]+)?)"}


def read_table() -> dict[str, MegatronFlag]:
    """The table by flag."""
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        names, arity, kind, *rest = line.split(" ")
        choices = tuple(rest[0].split(",")) if rest and rest[0] != "unread" else ()
        spellings = tuple(names.split(","))
        for name in spellings:
            found[name] = MegatronFlag(name, spellings, arity, kind, choices, rest[-1:] == ["unread"])
    return found


def faults(words: Sequence[str], taken: frozenset[str]) -> Iterator[Message]:
    """What is wrong with more flags for Megatron, and what would be right.

    Args:
        words: MP_MEGATRON_ARGS, split.
        taken: flags that the plan decides.
    """
    table = read_table()
    for name, values in grouped(words):
        spellings = table[name].names if name in table else (name,)
        if not name:
            yield Message("flag-none", value=repr(values[0]))
        elif taken.intersection(spellings) and name not in INERT:
            yield Message("flag-taken", flag=name)
        elif why := _why_refused(spellings):
            yield Message("flag-inert", flag=name, why=why)
        elif name == FULL_VALIDATION and MANY_SETS not in words:
            yield Message("flag-inert", flag=name, why=Message("fails-full-validation"))
        elif name not in table:
            near = nearest_word(name, tuple(set(table) - taken - set(INERT)))
            yield (
                Message("flag-not-megatrons-nearest", flag=name, nearest=near)
                if near
                else Message("flag-not-megatrons", flag=name)
            )
        elif table[name].unread:
            yield Message("flag-unread", flag=name)
        elif wrong := table[name].wrong(values):
            yield wrong


def _why_refused(spellings: Sequence[str]) -> Message | None:
    """Why a flag of the table is not taken, whichever of its spellings is written."""
    for name in spellings:
        if name in INERT:
            return INERT[name]
    family = next((code for prefix, code in FAMILIES.items() if spellings[0].startswith(prefix)), None)
    return Message(family) if family else None


def skipped_iterations(words: Sequence[str]) -> list[int]:
    """What `--iterations-to-skip` names, in order; as in argparse the last one counts.

    Args:
        words: MP_MEGATRON_ARGS, split; what is not a number is another's to refuse.
    """
    return sorted(set(_numbers(words, SKIP)))


def exit_interval(words: Sequence[str]) -> int | None:
    """What `--exit-interval` asks for: the run ends at the first multiple; None where it does not.

    Args:
        words: MP_MEGATRON_ARGS, split.
    """
    given = _numbers(words, EXIT)
    return given[0] if given and given[0] > 0 else None


def _numbers(words: Sequence[str], flag: str) -> list[int]:
    given = [values for name, values in grouped(words) if name == flag]
    return [int(value) for value in (given or [[]])[-1] if re.fullmatch(NUMBERS["int"], value)]


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
