"""Headers of safetensors files that somebody made by hand: what the safetensors package refuses, we refuse too."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats.safetensors_io import MAX_HEADER_BYTES, header_bytes, read_header


def entry(first: int, last: int, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    """A tensor in a header."""
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [first, last]}


GOOD = {"a": entry(0, 8), "b": entry(8, 16)}
HOSTILE: dict[str, tuple[Any, int]] = {
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 16),
    "the same place twice": ({"a": entry(0, 8), "b": entry(0, 8)}, 8),
    "shifted": ({"a": entry(4, 12), "b": entry(12, 20)}, 20),
    "a gap": ({"a": entry(0, 8), "b": entry(12, 20)}, 20),
    "negative": ({"a": entry(-8, 0), "b": entry(0, 8)}, 8),
    "backwards": ({"a": entry(8, 0), "b": entry(8, 16)}, 16),
    "too short": ({"a": entry(0, 8), "b": entry(8, 16)}, 15),
    "too long": ({"a": entry(0, 8), "b": entry(8, 16)}, 17),
    "shape of another size": ({"a": entry(0, 8, (3,))}, 8),
    "negative axes": ({"a": entry(0, 8, (-1, -2))}, 8),
    "an axis of 1.0": ({"a": entry(0, 8, [2.0])}, 8),
    "an axis of true": ({"a": entry(0, 4, [True])}, 4),
    "offsets of text": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}}, 8),
    "three offsets": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}, 8),
    "offsets beyond 64 bits": ({"a": entry(0, 1 << 70, (1 << 68,))}, 8),
    "axes whose product overflows": ({"a": entry(0, 8, (1 << 40, 1 << 40))}, 8),
    "an axis of 10^400": ({"a": entry(0, 8, (10**400,))}, 8),
    "a dtype that is none": ({"a": entry(0, 8, (2,), "F33")}, 8),
    "a dtype that is a list": ({"a": entry(0, 8, (2,), ["F32"])}, 8),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, 8),
    "a tensor that is a number": ({"a": 1}, 0),
    "metadata of numbers": ({"__metadata__": {"a": 1}, **GOOD}, 16),
    "metadata that is a list": ({"__metadata__": [], **GOOD}, 16),
    "a hidden tensor": ({"__other": entry(0, 8), "b": entry(4, 12)}, 12),
    "a list": ([], 0),
}
TEXTS = {
    "one name twice": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
    "NaN": b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
    "1e999": b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}',
    "nested": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not UTF-8": b'{"a\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "white space in front": b' {"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "more than JSON": b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}x',
}


def refused(file: Path) -> bool:
    """By the safetensors package."""
    try:
        with safe_open(str(file), framework="numpy") as opened:
            opened.keys()
    except SafetensorError:
        return True
    return False


def write(file: Path, text: bytes, data: int) -> Path:
    """A file with this header and so many bytes of data."""
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return file


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_does_not_fit_its_data(name: str, tmp_path: Path) -> None:
    """Refused in words, by us and by the safetensors package."""
    header, data = HOSTILE[name]
    file = write(tmp_path / "a.safetensors", json.dumps(header).encode(), data)
    assert refused(file) or name == "a hidden tensor"
    with pytest.raises(CheckpointError) as error:
        read_header(file)
    assert str(file) in str(error.value) and len(str(error.value)) < 2000


@pytest.mark.parametrize("name", TEXTS)
def test_a_header_that_is_no_honest_json(name: str, tmp_path: Path) -> None:
    """The file is named, and nothing of Python's own is said."""
    with pytest.raises(CheckpointError, match="header is damaged"):
        read_header(write(tmp_path / "a.safetensors", TEXTS[name], 16))


@pytest.mark.parametrize("length", [0, 1, 17, MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_header_of_another_length(length: int, tmp_path: Path) -> None:
    """Nothing of such a size is read or allocated."""
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", length) + b'{"a":{}}')
    with pytest.raises(CheckpointError):
        read_header(file)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    """A folder, a link to nothing."""
    (tmp_path / "link").symlink_to("nowhere")
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_header(path)


def test_many_wrong_tensors_are_counted(tmp_path: Path) -> None:
    """Not listed by the thousand."""
    header = {f"t{number}": entry(0, 1) for number in range(5000)}
    with pytest.raises(CheckpointError) as error:
        read_header(write(tmp_path / "a.safetensors", json.dumps(header).encode(), 1))
    assert len(error.value.problems) == 21 and "4980 more" in error.value.problems[-1]


def test_honest_files_are_read(tmp_path: Path) -> None:
    """In any order of names, with empty tensors, scalars and padding."""
    header = {"__metadata__": {"format": "pt"}, "b": entry(8, 16), "a": entry(0, 8), "c": entry(16, 16, (0, 3))}
    header["d"] = entry(16, 20, ())
    file = write(tmp_path / "a.safetensors", json.dumps(header).encode() + b"   ", 20)
    assert not refused(file)
    assert {name: one.nbytes for name, one in read_header(file).items()} == {"a": 8, "b": 8, "c": 0, "d": 4}
    file.write_bytes(header_bytes({"x": ("BF16", (2, 2)), "y": ("F32", (1,))}) + bytes(12))
    assert not refused(file) and set(read_header(file)) == {"x", "y"}
