"""Data that cannot be trained on are refused before anything is launched, with file and place."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_patch.common.checksum import file_sha256
from megatron_patch.data import check_idxmap
from megatron_patch.launch.driver import make_plan

DOCUMENTS, LENGTH = 20, 100
HEAD = 34
OFFSETS, BOUNDARIES = HEAD + 4 * DOCUMENTS, HEAD + 12 * DOCUMENTS
VOCABULARY = 258

Refused = Callable[..., list[str]]


@pytest.fixture
def refused(
    tmp_path: Path,
    idxmap: Callable[..., Path],
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Refused:
    """What a start, or a dry run, says about this dataset."""
    monkeypatch.chdir(world)

    def ask(prefix: Path, *, dry_run: bool = False, **changes: str) -> list[str]:
        typed = values(DATASET_PATH=str(prefix), OUTPUT_BASEPATH=str(tmp_path / "out"), **changes)
        _, _, problems = make_plan(typed, surroundings(), dry_run=dry_run)
        assert all("DATASET_PATH" in problem.names for problem in problems)
        return [str(problem.message) for problem in problems]

    return ask


def put(at: int, fmt: str, *values: int) -> Callable[[Path], None]:
    def change(prefix: Path) -> None:
        raw = bytearray(Path(f"{prefix}.idx").read_bytes())
        struct.pack_into(fmt, raw, at, *values)
        Path(f"{prefix}.idx").write_bytes(raw)

    return change


STRUCTURE = {
    "swapped lengths": (put(HEAD, "<2i", 50, 150), r"sequence 1 starts at byte 400; the lengths before it say 200"),
    "length 0": (put(HEAD + 8, "<i", 0), "sequence 3 starts at byte 1200; the lengths before it say 800"),
    "a negative length": (put(HEAD + 8, "<i", -100), "sequence 2 has -100 tokens"),
    "moved offsets": (put(OFFSETS + 8, "<q", 404), "sequence 1 starts at byte 404"),
    "zero offsets": (put(OFFSETS, "<19q", *[0] * 19), "sequence 1 starts at byte 0"),
    "a document out of range": (put(BOUNDARIES + 8, "<q", 1000), "document boundaries do not ascend from 0 to 20"),
    "descending documents": (put(BOUNDARIES + 8, "<2q", 3, 2), "document boundaries do not ascend from 0 to 20"),
    "documents that begin late": (put(BOUNDARIES, "<q", 1), "document boundaries do not ascend from 0 to 20"),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_damaged_index_is_refused_by_file_and_damage(
    name: str, refused: Refused, tmp_path: Path, idxmap: Callable[..., Path]
) -> None:
    damage, says = STRUCTURE[name]
    prefix = idxmap(tmp_path / "text")
    assert refused(prefix) == []
    damage(prefix)
    found = refused(prefix)[0]
    assert f"{prefix}.idx" in found and says in found


def test_images_are_not_trained_as_text(refused: Refused, tmp_path: Path, idxmap: Callable[..., Path]) -> None:
    """Multimodal data have a mode for each sequence: Megatron's GPT data set reads past it."""
    prefix = idxmap(tmp_path / "text")
    index = Path(f"{prefix}.idx")
    whole = index.read_bytes()
    index.write_bytes(whole + bytes(DOCUMENTS))
    assert refused(prefix) == []
    index.write_bytes(whole + bytes([0, 0, 1, *[0] * (DOCUMENTS - 3)]))
    (found,) = refused(prefix)
    assert found == f"{index}: sequence 2 has mode 1: it is not text, and would be trained as text"


@pytest.mark.parametrize("tp", ["1", "2"])
@pytest.mark.parametrize("at", [0, 777, DOCUMENTS * LENGTH - 1])
@pytest.mark.parametrize(
    ("token", "says"),
    [
        (-100, "ids are not negative; SFT data have such numbers"),
        (VOCABULARY, f"the vocabulary has {VOCABULARY} ids"),  # in the padding: the table has 384 rows
        (1 << 30, f"the vocabulary has {VOCABULARY} ids"),
    ],
)
def test_a_token_outside_the_vocabulary_is_refused_by_its_byte(
    tp: str, at: int, token: int, says: str, refused: Refused, tmp_path: Path, idxmap: Callable[..., Path]
) -> None:
    prefix = idxmap(tmp_path / "text")
    tokens = np.fromfile(f"{prefix}.bin", dtype=np.int32)
    tokens[at] = token
    tokens.tofile(f"{prefix}.bin")
    for dry_run in (False, True):  # small data are seen whole by a dry run too
        (found,) = refused(prefix, dry_run=dry_run, TP=tp)
        assert f"{prefix}.bin holds {token}" in found and f"byte {4 * at}" in found and says in found


def test_tokens_in_the_middle_of_much_data(
    refused: Refused, tmp_path: Path, idxmap: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run looks at both ends, a start further in."""
    prefix = idxmap(tmp_path / "text", documents=2000)
    tokens = np.fromfile(f"{prefix}.bin", dtype=np.int32)
    tokens[100_050] = 300
    tokens.tofile(f"{prefix}.bin")
    assert refused(prefix, dry_run=True) == []
    (found,) = refused(prefix)
    assert "holds 300 (sequence 1000, byte 400200)" in found
    monkeypatch.setattr(check_idxmap, "BLOCK", 4000)
    taken = [
        start
        for start, _ in check_idxmap.blocks(
            check_idxmap.read_index(prefix.with_suffix(".idx")), prefix.with_suffix(".bin"), 40_000
        )
    ]
    assert len(taken) == 10 and taken[0] == 0 and taken[-1] == 199_000, "much data: evenly spread, both ends"


def test_sft_data_and_other_tokenizers(
    refused: Refused, tmp_path: Path, idxmap: Callable[..., Path], world: Path
) -> None:
    prefix = idxmap(tmp_path / "text")
    build = Path(f"{prefix}.build.json")
    for made_with, found in (
        (file_sha256(world / "tokenizer" / "tokenizer.json"), False),
        ("none", False),
        ("0" * 64, True),
    ):
        build.write_text(json.dumps({"tokenizer_sha256": made_with, "vocab_size": VOCABULARY}))
        said = refused(prefix, dry_run=True)
        assert bool(said) == found and (not found or "was made with another tokenizer" in said[0])
    build.write_text("[" * 100_000)  # damaged: nothing is known
    assert refused(prefix, dry_run=True) == []
    Path(f"{prefix}.sft.json").write_text("{}")
    assert "was built for SFT" in refused(prefix, dry_run=True)[0]
