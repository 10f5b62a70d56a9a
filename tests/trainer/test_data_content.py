"""A run goes on with copies of its data, whatever their time, and not with other data at the same place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from megatron_patch.data import content
from megatron_patch.data.content import file_identity
from megatron_patch.trainer.data.content import identities, remember
from megatron_patch.trainer.errors import DatasetError

from .harness import build_idxmap, launch_warm, train


def test_identity_is_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small files all of it, of large ones evenly spread blocks, both ends among them."""
    monkeypatch.setattr(content, "WHOLE", 1000)
    monkeypatch.setattr(content, "BLOCK", 10)
    for size, places in ((1000, range(0, 1000, 7)), (100_000, (0, 5, 50_000, 99_990, 99_999))):
        path = tmp_path / "file"
        path.write_bytes(bytes(size))
        first = file_identity(path)
        os.utime(path, (1, 1))
        assert file_identity(path) == first
        for at in places:
            changed = bytearray(size)
            changed[at : at + 1000] = b"x" * min(1000, size - at)
            path.write_bytes(changed)
            assert file_identity(path) != first
        path.write_bytes(bytes(size + 1))
        assert file_identity(path) != first


@pytest.mark.parametrize("raw", [True, False])
def test_data_that_was_exchanged_is_named_at_the_next_start(tmp_path: Path, raw: bool) -> None:
    path = tmp_path / "chat.jsonl" if raw else build_idxmap(tmp_path / "text", seed=1)
    if raw:
        path.write_text("{}\n")
    output = tmp_path / "out"
    remember(output, identities([str(path)], raw=raw), resumed=False)
    os.utime(path if raw else f"{path}.bin", (1, 1))
    remember(output, identities([str(path)], raw=raw), resumed=True)
    if raw:
        path.write_text("[]\n")
    else:
        build_idxmap(path, seed=2)
    with pytest.raises(DatasetError, match=f"{path}: the content is not what it was at the last start"):
        remember(output, identities([str(path)], raw=raw), resumed=True)
    remember(output, identities([str(path)], raw=raw), resumed=False)  # begun anew
    remember(output, identities([str(path)], raw=raw), resumed=True)
    (output / "data" / "content.json").write_text("[1")
    remember(output, identities([str(path)], raw=raw), resumed=True)  # of an older version, or damaged


def test_a_resumed_run_looks(tmp_path: Path) -> None:
    prefix, output = build_idxmap(tmp_path / "documents", seed=1), tmp_path / "out"
    flags = f"--train-iters 4 --save {output}/checkpoints --save-interval 2"
    train(output, prefix, f"{flags} --exit-interval 2")
    for suffix in ("bin", "idx"):  # as on another node: copied, with a time of its own
        shutil.copyfile(f"{prefix}.{suffix}", tmp_path / "copy")
        (tmp_path / "copy").replace(f"{prefix}.{suffix}")
    build_idxmap(tmp_path / "other", seed=2)
    shutil.copytree(output, tmp_path / "again")
    resumed = f"--train-iters 4 --load {output}/checkpoints"
    train(output, prefix, resumed)
    for suffix in ("bin", "idx"):
        shutil.copyfile(tmp_path / f"other.{suffix}", f"{prefix}.{suffix}")
    run = launch_warm(tmp_path / "again", prefix, f"--train-iters 4 --load {tmp_path}/again/checkpoints")
    assert run.returncode and "the content is not what it was at the last start" in run.stdout + run.stderr
