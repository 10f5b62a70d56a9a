"""Every corruption is caught, and whole files are whole: pretraining data, and SFT data with its sidecar.

Of the first sixteen Megatron's own readers pass four (mapped) to eight.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_patch.common.checksum import file_sha256
from megatron_patch.data.idxmap.writer import SMALL_VOCABULARY, IdxmapWriter
from megatron_patch.data.sft import sidecar
from megatron_patch.data.sft.sidecar import Sidecar
from megatron_patch.data.verify import main, verify, write_sums

VOCABULARY = 900
LENGTHS = (7, 12, 5, 9)
HEAD = 34


def write(prefix: Path, seed: int = 0) -> None:
    """Four documents; other seeds give other tokens of the same lengths."""
    random = np.random.default_rng(seed)
    with IdxmapWriter(prefix, SMALL_VOCABULARY) as writer:
        for length in LENGTHS:
            writer.add_document(random.integers(0, VOCABULARY, length).tolist())


def change(path: Path, at: int, fmt: str, value: int) -> None:
    raw = bytearray(path.read_bytes())
    struct.pack_into(fmt, raw, at, value)
    path.write_bytes(raw)


def rewrite(suffix: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(prefix: Path) -> None:
        path = Path(f"{prefix}.{suffix}")
        path.write_bytes(edit(path.read_bytes()))

    return apply


def set_in_index(at: int, fmt: str, value: int) -> Callable[[Path], None]:
    return lambda prefix: change(Path(f"{prefix}.idx"), at, fmt, value)


def flip_bit(raw: bytes, at: int = 41) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def swap_data(prefix: Path) -> None:
    write(prefix.with_name("other"), seed=1)
    prefix.with_name("other.bin").replace(f"{prefix}.bin")


def swap_index(prefix: Path) -> None:
    """Of a dataset with the same number of tokens, cut elsewhere."""
    other = prefix.with_name("other")
    with IdxmapWriter(other, SMALL_VOCABULARY) as writer:
        for length in reversed(LENGTHS):
            writer.add_document([1] * length)
    other.with_name("other.idx").replace(f"{prefix}.idx")


POINTERS, BOUNDARIES = HEAD + 4 * 4, HEAD + 4 * 4 + 8 * 4
CORRUPTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit in the data": (rewrite("bin", flip_bit), "SHA-256 differs"),
    "extra bytes behind the data": (
        rewrite("bin", lambda raw: raw + bytes(8)),
        "bin has 140 bytes, its index says 132",
    ),
    "a negative length": (set_in_index(HEAD + 4, "<i", -12), "sequence 1 has -12 tokens"),
    "the data of another dataset": (swap_data, "SHA-256 differs"),
    "data cut in a token": (rewrite("bin", lambda raw: raw[:-3]), "bin has 129 bytes"),
    "data cut between documents": (rewrite("bin", lambda raw: raw[: -4 * 9]), "bin has 96 bytes"),
    "empty data": (rewrite("bin", lambda raw: b""), "bin has 0 bytes"),
    "no data": (lambda prefix: Path(f"{prefix}.bin").unlink(), "bin is missing"),
    "a torn index": (
        rewrite("idx", lambda raw: raw[:-5]),
        "idx is damaged: 4 sequences",
    ),
    "an index without body": (rewrite("idx", lambda raw: raw[:20]), "idx is cut: 20 bytes, the header alone has 34"),
    "an empty index": (rewrite("idx", lambda raw: b""), "idx is empty"),
    "no index": (lambda prefix: Path(f"{prefix}.idx").unlink(), "idx is missing"),
    "another magic": (set_in_index(0, "<B", 0), "it does not start with b'MMIDIDX"),
    "another version": (set_in_index(9, "<Q", 2), "version 2, token type 4; known: version 1"),
    "another token type": (
        set_in_index(17, "<B", 8),
        ", its index says 66",
    ),
    "an unknown token type": (set_in_index(17, "<B", 77), "token type 77; known: version 1, types 1, 2"),
    "too many sequences": (set_in_index(18, "<Q", 5), "5 sequences and 5 document boundaries do not make"),
    "extra bytes behind the index": (rewrite("idx", lambda raw: raw + bytes(16)), "do not make 138 bytes"),
    "an offset into the middle": (set_in_index(POINTERS + 8, "<q", 4), "sequence 1 starts at byte 4; the lengths"),
    "an offset behind the end": (set_in_index(POINTERS + 24, "<q", 1 << 40), "sequence 3 starts at byte 1099511627776"),
    "document boundaries that descend": (set_in_index(BOUNDARIES + 8, "<q", 4), "do not ascend from 0 to 4"),
    "documents that end early": (set_in_index(BOUNDARIES + 32, "<q", 3), "do not ascend from 0 to 4"),
    "the index of another dataset": (swap_index, "idx is not what was written"),
    "an id out of the vocabulary": (
        lambda prefix: change(Path(f"{prefix}.bin"), 4 * 8, "<i", VOCABULARY),
        "sequence 1 holds 900, not an id",
    ),
    "a negative id": (lambda prefix: change(Path(f"{prefix}.bin"), 0, "<i", -5), "sequence 0 holds -5"),
    "halves of the data exchanged": (rewrite("bin", lambda raw: raw[64:] + raw[:64]), "SHA-256 differs"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_are_caught(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "data_text_document"
    write(prefix)
    write_sums(str(prefix))
    arguments = [f"{prefix}.idx", "--vocab-size", str(VOCABULARY)]
    assert main(arguments) == 0, capsys.readouterr().out
    corrupt, says = CORRUPTIONS[name]
    corrupt(prefix)
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "BROKEN" in out and says in out, out


def test_there_are_sixteen_and_more_of_them() -> None:
    assert len(CORRUPTIONS) == len({id(corrupt) for corrupt, _ in CORRUPTIONS.values()}) >= 16


def test_what_structure_alone_shows(tmp_path: Path) -> None:
    """Without checksums only a token that became another, or the same bytes elsewhere, pass; and it is said so."""
    passed = []
    for name, (corrupt, _) in CORRUPTIONS.items():
        prefix = tmp_path / name / "data"
        prefix.parent.mkdir()
        write(prefix)
        corrupt(prefix)
        finding = verify(str(prefix), VOCABULARY)
        assert any("no checksums" in str(note) for note in finding.notes)
        if not finding.wrong:
            passed.append(name)
    assert passed == [
        "a flipped bit in the data",
        "the data of another dataset",
        "the index of another dataset",
        "halves of the data exchanged",
    ]


def test_checksums_are_sha256sums(tmp_path: Path) -> None:
    write(tmp_path / "data")
    path = write_sums(str(tmp_path / "data"))
    done = subprocess.run(["sha256sum", "-c", path.name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "data.bin: OK\ndata.idx: OK\n"


def test_megatrons_own_files_are_whole(tmp_path: Path) -> None:
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    for vocabulary in (900, 70000):
        builder = IndexedDatasetBuilder(str(tmp_path / "m.bin"), dtype=DType.optimal_dtype(vocabulary))
        for document in range(5):
            builder.add_document(list(range(30)), [10, 20] if document % 2 else [30])
        builder.finalize(str(tmp_path / "m.idx"))
        finding = verify(str(tmp_path / "m"), vocabulary)
        assert finding.wrong == [] and "5 documents, 7 sequences, 150 tokens" in str(finding.notes[0])


# ---------------------------------------------------------------- SFT data


def write_sft(prefix: Path) -> None:
    tokens, labels = [5, 6, -1 - 7, 8, -1 - 9, 0, 0, 0], [-100, 7, 1, -100, 2, -100, -100, -100]
    with IdxmapWriter(prefix, SMALL_VOCABULARY) as writer:
        for _ in range(3):
            writer.add_document(tokens + labels)
    sums = {f"{suffix}_sha256": file_sha256(Path(f"{prefix}.{suffix}")) for suffix in ("bin", "idx")}
    sidecar.write(
        prefix,
        Sidecar(
            seq_length=8, packed=True, rows=3, samples=6, tokens=15, trained_tokens=9, loss="assistant",
            overlong="truncate", tokenizer_sha256="0" * 64, vocab_size=100, template_sha256="", template_source="",
            **sums,
        ),
    )  # fmt: skip


SFT_CORRUPTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (rewrite("bin", lambda raw: flip_bit(raw, 4)), "SHA-256 differs"),
    "a label that is none": (lambda prefix: change(Path(f"{prefix}.bin"), 4 * 9, "<i", -1), "holds -1"),
    "a label behind the vocabulary": (lambda prefix: change(Path(f"{prefix}.bin"), 4 * 9, "<i", 100), "holds 100"),
    "a marked token behind the vocabulary": (lambda p: change(Path(f"{p}.bin"), 0, "<i", -101), "holds -101"),
    "a sidecar of another length": (
        lambda prefix: sidecar.path_of(prefix).write_text(
            json.dumps({**json.loads(sidecar.path_of(prefix).read_text()), "seq_length": 4})
        ),
        "the sidecar says 3 documents of 2 x 4",
    ),
    "a torn sidecar": (lambda prefix: sidecar.path_of(prefix).write_text("{"), "sft.json is damaged"),
}


@pytest.mark.parametrize("name", SFT_CORRUPTIONS)
def test_sft_corruptions_are_caught(tmp_path: Path, name: str) -> None:
    prefix = tmp_path / "data"
    write_sft(prefix)
    assert verify(str(prefix), tokenizer_sha256="0" * 64).wrong == []
    corrupt, says = SFT_CORRUPTIONS[name]
    corrupt(prefix)
    assert any(says in str(line) for line in verify(str(prefix)).wrong), verify(str(prefix))


def test_sft_data_of_another_tokenizer(tmp_path: Path) -> None:
    write_sft(tmp_path / "data")
    assert "another tokenizer" in str(verify(str(tmp_path / "data"), tokenizer_sha256="1" * 64).wrong[0])


def test_pais_sft_data_needs_to_be_told(tmp_path: Path) -> None:
    write_sft(tmp_path / "data")
    sidecar.path_of(tmp_path / "data").unlink()
    assert verify(str(tmp_path / "data"), 100).wrong != []
    assert verify(str(tmp_path / "data"), 100, sft=True).wrong == []
