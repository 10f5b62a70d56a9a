"""What one row of the table of MP_* variables says."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from megatron_patch.common.values import Kind


def row(
    default: Any,
    kind: Kind,
    meaning: str,
    chinese: str,
    *,
    flag: str = "",
    always: bool = False,
    matters: tuple[str, ...] = (),
) -> Any:
    """One row.

    Args:
        default: None leaves the choice to the plan, which says what it took.
        meaning: in English.
        chinese: the same in Chinese.
        flag: of the parser, if the value is only passed on to it.
        always: the flag is given for the default too.
        matters: a position, a variable or DEVICE, and the values of it under which the variable does something
            (none: any, if it is set).
    """
    rest = {"kind": kind, "meaning": meaning, "chinese": chinese, "flag": flag, "always": always, "matters": matters}
    return field(default=default, metadata=rest)
