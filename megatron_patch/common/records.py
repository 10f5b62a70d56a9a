"""JSON that somebody gives us, read with the type and the range of every value.

A key that is missing takes its default; a key that this version does not know is ignored; a value of another type, NaN,
or one beyond its range makes the text unusable, and the error says which value and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megatron_patch.common.messages import Message

LARGEST = 1e30
"""Of any number: sums, products and squares of a few such numbers are still finite."""
Real = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=1, le=2**31)]
Word = Annotated[str, Field(max_length=100_000)]


class Record(BaseModel):
    """Of JSON: types are not converted."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def read[R: Record](kind: type[R], text: str | bytes) -> R:
    """A record from JSON.

    Raises:
        ValueError: with the first value that is wrong, and why.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(said(error)) from error


def said(error: ValidationError) -> str:
    """The first reason in one line, and how many there are."""
    first, *others = error.errors(include_url=False, include_input=False, include_context=False)
    where = ".".join(map(str, first["loc"]))
    more = f" (and {len(others)} more)" if others else ""
    return (f"{where}: " if where else "") + first["msg"] + more


def read_file[R: Record](kind: type[R], file: Path, problems: list[Message]) -> R | None:
    """A record from a file; None, and a line in `problems`, where it cannot be used."""
    try:
        return read(kind, file.read_bytes())
    except (OSError, ValueError) as error:
        problems.append(Message("not-used", path=file, error=error))
        return None
