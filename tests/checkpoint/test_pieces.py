"""Files of a Hugging Face folder, written piece by piece: the same bytes, a SHA-256 of each piece, damage is found."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_patch.checkpoint import store
from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats import hf_writer, sources
from megatron_patch.checkpoint.manifest import verify
from megatron_patch.models.weight_map import Span

from .models import SMALL, make_model

PIECE = 4096
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def megatron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    hf = make_model(folder / "hf", SMALL)
    assert main(["--source", str(hf), "--output-path", str(folder / "megatron")]) == 0
    return folder / "megatron"


def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hf_writer, store):
        monkeypatch.setattr(module, "PIECE_BYTES", PIECE)


def to_hf(megatron: Path, target: Path, workers: int = 3) -> Path:
    assert main(["--source", str(megatron), "--output-path", str(target), "--workers", str(workers)]) == 0
    return target


@pytest.fixture
def pieces(megatron: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        in_pieces(patch)
        return to_hf(megatron, tmp_path / "pieces")


def facts_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["files"][FILE]


def edit(folder: Path, **facts: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][FILE] |= facts
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("block", [1000, 3000, 64 << 20])
@pytest.mark.parametrize("workers", [3, 20])
@pytest.mark.parametrize("direct", [True, False])
def test_the_same_bytes_as_in_one_go(
    megatron: Path, tmp_path: Path, block: int, direct: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces end within rows, and blocks within pieces; straight from memory as on tmpfs, and with O_DIRECT.

    20 workers are several processes.
    """
    whole = to_hf(megatron, tmp_path / "whole")
    assert facts_of(whole).keys() == {"sha256", "bytes"}
    in_pieces(monkeypatch)
    monkeypatch.setattr(sources, "BLOCK_BYTES", block)
    monkeypatch.setattr(sources, "CHUNK_BYTES", min(block, 2000))
    monkeypatch.setattr(store, "_is_tmpfs", lambda descriptor: not direct)
    monkeypatch.setattr(store, "DIRECT_BYTES", PIECE)
    monkeypatch.setattr(store, "_SPARE", [])
    pieces = to_hf(megatron, tmp_path / "pieces", workers)
    written = (pieces / FILE).read_bytes()
    assert written == (whole / FILE).read_bytes()
    parts = [written[first : first + PIECE] for first in range(0, len(written), PIECE)]
    assert facts_of(pieces) == {
        "bytes": len(written),
        "piece_bytes": PIECE,
        "pieces": [hashlib.sha256(part).hexdigest() for part in parts],
    }
    assert len(parts) > 20 and verify(pieces) == verify(whole) + sum(
        (pieces / name).stat().st_size - (whole / name).stat().st_size for name in ("config.json", FILE)
    )


def test_a_flipped_bit_of_any_piece_is_found(pieces: Path) -> None:
    file = pieces / FILE
    sound = file.read_bytes()
    for place in (0, PIECE - 1, PIECE, len(sound) // 2, len(sound) - 1):
        with file.open("r+b") as stream:
            stream.seek(place)
            stream.write(bytes([sound[place] ^ 1]))
        with pytest.raises(CheckpointError) as refused:
            verify(pieces)
        assert [(m.told.code, m.values["path"]) for m in refused.value.messages] == [("manifest-sha256", file)]
        file.write_bytes(sound)
    assert verify(pieces) > 0


@pytest.mark.parametrize("workers", [3, 20])
def test_damage_keeps_a_conversion_from_appearing(
    pieces: Path, tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((pieces / FILE).read_bytes())
    data[-1] ^= 1  # still a number
    (pieces / FILE).write_bytes(data)
    assert main(["--source", str(pieces), "--output-path", str(tmp_path / "again"), "--workers", str(workers)]) == 2
    assert "SHA-256 is not the manifest's" in capsys.readouterr().err
    assert not (tmp_path / "again").exists() and not [p for p in tmp_path.iterdir() if ".partial-" in p.name]


def test_one_that_is_missing_or_cut_is_told_once(pieces: Path) -> None:
    file = pieces / FILE
    for change, code in ((lambda: file.write_bytes(b"x" * PIECE), "manifest-bytes"), (file.unlink, "manifest-missing")):
        change()
        with pytest.raises(CheckpointError) as refused:
            verify(pieces)
        assert [message.told.code for message in refused.value.messages] == [code]


@pytest.mark.parametrize(
    "wrong",
    [{"pieces": []}, {"pieces": None}, {"piece_bytes": 0}, {"piece_bytes": True}, {"piece_bytes": 1 << 40},
     {"bytes": -1}, {"bytes": 1.5}, {"pieces": 5}],
)  # fmt: skip
def test_pieces_that_are_not_the_file_are_refused(pieces: Path, wrong: dict[str, object]) -> None:
    edit(pieces, **wrong)
    with pytest.raises(CheckpointError) as refused:
        verify(pieces)
    assert refused.value.messages[0].told.code == "manifest-bad"


@pytest.mark.parametrize("workers", [3, 20])
def test_a_full_disk_in_one_piece_leaves_nothing(
    megatron: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch)
    written = store.HashingPiece.write

    def full(self: store.HashingPiece, data: object) -> int:
        if self._number == 7:
            raise OSError(28, "No space left on device")
        return written(self, data)

    monkeypatch.setattr(store.HashingPiece, "write", full)
    with pytest.raises(OSError, match="No space left"):
        to_hf(megatron, tmp_path / "target", workers)
    assert not list(tmp_path.iterdir())


def test_nan_and_a_killed_process_are_told(
    megatron: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both from another process: an error with its values, and none at all."""
    in_pieces(monkeypatch)
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # threads that earlier tests have left do not count
    looked = sources.BlockMaker._look_at_bits
    killed = ["--source", str(megatron), "--output-path", str(tmp_path / "target")]

    def look(self: sources.BlockMaker, part: np.ndarray, span: Span) -> None:
        if "fc2" in span.name and span.layer == 2:
            torch.frombuffer(part, dtype=self.dtype)[0] = float("nan")
        looked(self, part, span)

    monkeypatch.setattr(sources.BlockMaker, "_look_at_bits", look)
    assert main([*killed, "--workers", "20"]) == 2
    assert "decoder.layers.mlp.linear_fc2.weight of layer 2 has a value that is NaN" in capsys.readouterr().err
    monkeypatch.setattr(sources.BlockMaker, "_look_at_bits", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    assert main([*killed, "--workers", "20"]) == 1
    said = capsys.readouterr().err
    assert "a worker was killed" in said and "--help" not in said
    assert not list(tmp_path.iterdir())
