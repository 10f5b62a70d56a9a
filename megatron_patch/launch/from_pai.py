"""What commands of Pai-Megatron-Patch have that ours have not: each is refused with the way that it is said here.

Source: examples/qwen3/run_mcore_qwen3.sh of Pai-Megatron-Patch, whose 27 values have ETP and EP as 13th and 14th, and a
part of the optimizer's state as OPTIMIZER_OFFLOAD.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from megatron_patch.common.messages import Message
from megatron_patch.common.values import Kind, ValueProblem, choice

VARIABLES = {"MP_PP0_LAYERS": "pai-first-stage"}
"""Variables of theirs that do not exist here, with the code of what is said instead."""
EXPERTS = slice(12, 14)
"""Where ETP and EP stand among 27 values."""


def extra_values(values: Sequence[str], wanted: int) -> Message | None:
    """What to say of two values too many where they are ETP and EP; None where they are not."""
    experts, after = values[EXPERTS], values[EXPERTS.stop : EXPERTS.stop + 4]
    booleans = all(value.lower() in ("true", "false") for value in after)
    if len(values) != wanted + 2 or not booleans or not all(re.fullmatch("[0-9]{1,6}", value) for value in experts):
        return None
    return Message("pai-experts", given=len(values), wanted=wanted, etp=experts[0], ep=experts[1])


def offload_kind() -> Kind:
    """OPTIMIZER_OFFLOAD: three words; a number is their newer scripts' part of the state."""
    words = choice("false", "static", "auto")

    def parse(text: str) -> Any:
        if re.fullmatch(r"0?\.[0-9]+|1(\.0*)?", text):
            raise ValueProblem("pai-offload", part=text)
        return words.parse(text)

    return Kind(parse=parse, expects=words.expects)
