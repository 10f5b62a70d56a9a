"""JSON that somebody gives us, read with the type and the range of every value.

A key that is missing takes its default; a key that this version does not know is ignored; a value of another type, NaN,
or one beyond its range makes the text unusable, and the error says which value and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megatron_patch.common.errors import UserError
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
        RecordError: with the first value that is wrong, and why.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RecordError.of([_first_reason(error)]) from error


class RecordError(UserError, ValueError):
    """JSON that is not the record that it should be."""


RULES = {
    "int_type": "record-int",
    "int_from_float": "record-int",
    "float_type": "record-float",
    "finite_number": "record-finite",
    "string_type": "record-str",
    "bool_type": "record-bool",
    "list_type": "record-list",
    "tuple_type": "record-list",
    "dict_type": "record-dict",
    "model_type": "record-dict",
    "missing": "record-missing",
    "greater_than_equal": "record-least",
    "less_than_equal": "record-most",
    "string_too_long": "record-long",
    "literal_error": "record-choice",
    "json_invalid": "record-json",
}
"""Codes of the texts, by pydantic's types of errors; others are told in its own words."""


def _first_reason(error: ValidationError) -> Message:
    """And how many there are."""
    first, *others = error.errors(include_url=False, include_input=False)
    code, where = RULES.get(first["type"]), ".".join(map(str, first["loc"]))
    what = Message(code, **first.get("ctx", {})) if code else Message("uncoded", text=first["msg"])
    if where:
        what = Message("record-at", where=where, what=what)
    return Message("record-more", what=what, more=len(others)) if others else what


def read_file[R: Record](kind: type[R], file: Path, problems: list[Message]) -> R | None:
    """A record from a file; None, and a line in `problems`, where it cannot be used."""
    try:
        return read(kind, file.read_bytes())
    except (OSError, ValueError) as error:
        problems.append(Message("not-used", path=file, error=error))
        return None
