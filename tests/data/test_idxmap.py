"""Our `.bin`/`.idx` are Megatron's, byte for byte, and are never seen half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from megatron_patch.data.idxmap.writer import IdxmapWriter, read_lengths, token_type

DOCUMENTS = [[1, 2, 3], [65499], list(range(40)), [7, 7]]


def write(prefix: Path, vocab_size: int, documents: list[list[int]] = DOCUMENTS) -> None:
    with IdxmapWriter(prefix, vocab_size) as writer:
        for ids in documents:
            writer.add_document(ids)


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("vocab_size", [65499, 65500, 128256])
def test_byte_identical_to_megatron(tmp_path: Path, vocab_size: int) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

    write(tmp_path / "ours", vocab_size)
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(vocab_size))
    for ids in DOCUMENTS:
        builder.add_document(ids, [len(ids)])
    builder.finalize(str(tmp_path / "theirs.idx"))

    assert token_type(vocab_size) is DType.optimal_dtype(vocab_size)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()
    dataset = IndexedDataset(str(tmp_path / "ours"))
    assert [dataset[i].tolist() for i in range(len(dataset))] == DOCUMENTS
    assert isinstance(torch.from_numpy(dataset[0].astype(np.int64)), torch.Tensor)


def test_one_document_and_many(tmp_path: Path) -> None:
    for count in (1, 1000):
        write(tmp_path / "many", 300, [[i % 300] * (i % 7 + 1) for i in range(count)])
        assert read_lengths(tmp_path / "many").tolist() == [i % 7 + 1 for i in range(count)]


def test_an_error_leaves_the_old_files(tmp_path: Path) -> None:
    write(tmp_path / "data", 300, [[1, 2]])
    old = [(tmp_path / f"data{suffix}").read_bytes() for suffix in (".bin", ".idx")]
    with pytest.raises(RuntimeError, match="midway"), IdxmapWriter(tmp_path / "data", 300) as writer:
        writer.add_document([9] * 100_000)
        raise RuntimeError("midway")
    assert [(tmp_path / f"data{suffix}").read_bytes() for suffix in (".bin", ".idx")] == old
    assert files_of(tmp_path) == ["data.bin", "data.idx"]


def test_killed_leaves_nothing_half_and_the_next_run_works(tmp_path: Path) -> None:
    program = f"""
        from pathlib import Path
        from megatron_patch.data.idxmap.writer import IdxmapWriter
        with IdxmapWriter(Path({str(tmp_path / "data")!r}), 300) as writer:
            writer.add_document([1] * 1_000_000)
            print("halfway", flush=True)
            input()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "halfway\n"
    with pytest.raises(BlockingIOError), IdxmapWriter(tmp_path / "data", 300):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert files_of(tmp_path) == ["data.bin.partial"]
    write(tmp_path / "data", 300, [[1, 2, 3]])
    assert read_lengths(tmp_path / "data").tolist() == [3]
    assert files_of(tmp_path) == ["data.bin", "data.idx"]


@pytest.mark.parametrize("damage", ["empty bin", "long bin", "short idx", "not an index", "wrong type"])
def test_a_torn_pair_is_noticed(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "data", 300, [[1, 2, 3], [4]])
    data, index = tmp_path / "data.bin", tmp_path / "data.idx"
    raw = index.read_bytes()
    match damage:
        case "empty bin":
            data.write_bytes(b"")
        case "long bin":
            data.write_bytes(data.read_bytes() + b"\0")
        case "short idx":
            index.write_bytes(raw[:-8])
        case "not an index":
            index.write_bytes(b"PK" + raw)
        case "wrong type":
            index.write_bytes(raw[:17] + b"\x07" + raw[18:])
    with pytest.raises(ValueError, match=r"data\.(bin|idx)"):
        read_lengths(tmp_path / "data")
