"""JSON of strangers: what Python's reader takes or trips over is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_patch.common.strict_json import JsonError, is_whole, parse_json, read_json, read_object

HOSTILE = {
    "json-too-deep": [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 200 + "1" + "}" * 200,
        "[" * 101 + "]" * 101,
    ],
    "json-number": ["1e999", "-1e999", "NaN", "[Infinity]", "-Infinity", "1" + "0" * 400, "9" * 5000, '{"a": 1e400}'],
    "json-syntax": ["", "{", "[1,]", '{"a": 1} x', "'a'", "\ufeff{}"],
    "json-not-utf-8": [b'"\xff"', b"\xff\xfe[\x00]\x00"],
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in HOSTILE.items() for text in texts])
def test_hostile_text(code: str, text: str | bytes) -> None:
    """One kind of error, which is a ValueError, in a short sentence."""
    with pytest.raises(JsonError) as error:
        parse_json(text)
    assert error.value.code == code and len(str(error.value)) < 200 and isinstance(error.value, ValueError)


@pytest.mark.parametrize("text", ["[" * 100_000, "1e999", "NaN", "9" * 5000])
def test_large_files_are_bounded_too(text: str) -> None:
    """Without a look at every number."""
    with pytest.raises(JsonError):
        parse_json(text, large=True)


def test_what_honest_files_hold() -> None:
    """The `model_max_length` of tokenizers, scores, and 100 levels."""
    assert parse_json('{"a": 1000000000000000019884624838656, "b": [-1.5e-3]}')["b"] == [-0.0015]
    assert parse_json("[" * 100 + "]" * 100) is not None
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(JsonError, match="key a twice"):
        parse_json('{"a": 1, "a": 2}', unique=True)


def test_files(tmp_path: Path) -> None:
    """No more than the bound is read."""
    file = tmp_path / "a.json"
    file.write_text("[" + " " * 1000 + "]")
    assert read_json(file) == []
    with pytest.raises(JsonError, match="more than 100 bytes"):
        read_json(file, most=100)
    with pytest.raises(JsonError, match="not a JSON object"):
        read_object(file)
    with pytest.raises(OSError):
        read_json(tmp_path)


def test_whole_numbers() -> None:
    """Neither 1000.5 nor true."""
    assert is_whole(1000, 0, 1000)
    assert not any(is_whole(value, 0, 1000) for value in (1000.5, 1000.0, True, "1", None, -1, 1001, 10**400))
