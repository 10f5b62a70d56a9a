"""Sample indices belong to the data's content, and torn ones are built again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from megatron_patch.trainer.data.index_cache import cache_folder, drop_torn_indices
from megatron_patch.trainer.errors import DatasetError

from .harness import Run, build_idxmap, train


def test_other_content_has_another_folder(tmp_path: Path) -> None:
    """Data rebuilt at the same path do not meet the old index; the same data meet theirs again."""
    prefix = str(build_idxmap(tmp_path / "a", seed=1))
    first = cache_folder(tmp_path, [prefix])
    assert cache_folder(tmp_path, [prefix]) == first
    build_idxmap(tmp_path / "a", seed=2)
    second = cache_folder(tmp_path, [prefix])
    assert second != first
    other = str(build_idxmap(tmp_path / "b", seed=2))
    assert len({first, second, cache_folder(tmp_path, [prefix, other]), cache_folder(tmp_path, [other])}) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda bin_, idx: bin_.unlink(), "documents.bin does not exist"),
        (lambda bin_, idx: idx.unlink(), "documents.idx does not exist"),
        (lambda bin_, idx: bin_.write_bytes(bin_.read_bytes()[:-2]), ", its index says"),
        (lambda bin_, idx: bin_.write_bytes(bin_.read_bytes() + b"xx"), ", its index says"),
        (lambda bin_, idx: bin_.write_bytes(b""), "documents.bin has 0 bytes"),
        (lambda bin_, idx: idx.write_bytes(b"not an index"), "documents.idx is not an index"),
    ],
    ids=["no bin", "no idx", "short", "long", "empty", "no index"],
)
def test_damage_is_named(tmp_path: Path, damage, message: str) -> None:
    """Megatron maps most of these without a word and trains on garbage."""
    prefix = build_idxmap(tmp_path / "documents")
    damage(Path(f"{prefix}.bin"), Path(f"{prefix}.idx"))
    with pytest.raises(DatasetError, match=message):
        cache_folder(tmp_path, [str(prefix)])


def test_torn_files_are_found(tmp_path: Path) -> None:
    """Cut in the header, in the data, empty; whole ones stay."""
    np.save(tmp_path / "whole.npy", np.arange(1000, dtype=np.int32))
    content = (tmp_path / "whole.npy").read_bytes()
    for name, length in (("empty", 0), ("header", 40), ("data", len(content) - 1)):
        (tmp_path / f"{name}.npy").write_bytes(content[:length])
    assert [path.name for path in drop_torn_indices(tmp_path)] == ["data.npy", "empty.npy", "header.npy"]
    assert [path.name for path in tmp_path.iterdir()] == ["whole.npy"]


def test_a_run_heals_its_indices(tmp_path: Path, data: Path, start: str, reference: Run) -> None:
    """Killed while it wrote an index, a run trains on the right data when it is started again."""
    shutil.copytree(reference.output / "cache", tmp_path / "cache")
    (torn,) = tmp_path.glob("cache/*/*train-shuffle_index.npy")
    torn.write_bytes(torn.read_bytes()[:-8])
    run = train(tmp_path, data, f"{start} --exit-interval 3")
    assert run.losses == reference.losses[:3]
    assert "was not written to its end: it is built again" in run.log()
