"""Everything that can be wrong with a Megatron checkpoint: refused with exit 2, named, and nothing is left behind."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megatron_patch.checkpoint.cli import main

from .damage import Attack, Change, edit, fill, flip, refused, truncate
from .models import MODELS, make_model


def metadata(folder: Path) -> Path:
    return folder / "release" / ".metadata"


def block(folder: Path) -> Path:
    return max((folder / "release").glob("*.distcp"), key=lambda file: file.stat().st_size)


def objects(folder: Path) -> Path:
    """The entries that are not tensors, in the file after those of the tensors."""
    return max((folder / "release").glob("*.distcp"), key=lambda file: int(file.stem.split("_")[-1]))


BAD_MEGATRON: dict[str, tuple[Change, str]] = {
    "a file is missing": (lambda f: block(f).unlink(), "which is not there"),
    "a file is truncated": (lambda f: truncate(block(f), 1000), "truncated"),
    "a bit of a weight is flipped": (lambda f: flip(block(f), block(f).stat().st_size // 2), "SHA-256 is not"),
    "a bit makes a weight infinite": (lambda f: fill(block(f), 3000, b"\x80\x7f" * 64), "SHA-256 is not"),
    "a bit of what is not converted is flipped": (lambda f: flip(objects(f), 100), "SHA-256 is not"),
    "a bit of the tokenizer is flipped": (lambda f: flip(f / "tokenizer.json", 100), "tokenizer.json: its SHA-256"),
    "the metadata is missing": (lambda f: metadata(f).unlink(), "points to release, which was not written to its end"),
    "the metadata is damaged": (lambda f: metadata(f).write_bytes(metadata(f).read_bytes()[:-50]), "damaged"),
    "the metadata is something else": (lambda f: metadata(f).write_bytes(pickle.dumps([1])), "not the metadata"),
    "the tracker is damaged": (lambda f: (f / "latest_checkpointed_iteration.txt").write_text("?"), "says '?'"),
    "the tracker points nowhere": (
        lambda f: (f / "latest_checkpointed_iteration.txt").write_text("12"),
        "points to iter_0000012, which does not exist; complete: release",
    ),
    "the manifest is damaged": (lambda f: (f / "manifest.json").write_text("{}"), "not a manifest"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "a folder that has one with --hf-path"),
    "a configuration of another model": (
        lambda f: edit(f / "config.json", lambda c: c.update(num_key_value_heads=4)),
        "linear_qkv.weight is [4, 192, 64], the configuration means [4, 256, 64]",
    ),
    "a configuration with ties": (
        lambda f: edit(f / "config.json", lambda c: c.update(tie_word_embeddings=True)),
        "output_layer.weight [512, 64] is not in the configuration",
    ),
}


@pytest.mark.parametrize("name", BAD_MEGATRON)
def test_a_bad_megatron_folder(good: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, said = BAD_MEGATRON[name]
    shutil.copytree(good / "megatron", tmp_path / "megatron")
    change(tmp_path / "megatron")
    verify = () if "bit" in name or "manifest" in name else ("--no-verify",)
    assert said in refused(tmp_path, tmp_path / "megatron", capsys, *verify)


@pytest.mark.parametrize("name", ["a file is missing", "a file is truncated", "a bit of a weight is flipped"])
def test_the_manifest_catches_damage_by_itself(
    good: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good / "megatron", tmp_path / "megatron")
    damaged = block(tmp_path / "megatron").name
    BAD_MEGATRON[name][0](tmp_path / "megatron")
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "megatron")]) == 2
    assert damaged in capsys.readouterr().err
    assert main(["verify", str(good / "megatron")]) == 0


def test_every_file_that_is_not_as_its_manifest_says_is_named(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good / "megatron", tmp_path / "megatron")
    damaged = [block(tmp_path / "megatron"), objects(tmp_path / "megatron"), tmp_path / "megatron" / "tokenizer.json"]
    for file in damaged:
        flip(file, file.stat().st_size // 2)
    said = refused(tmp_path, tmp_path / "megatron", capsys)
    assert [str(file) in said for file in damaged] == [True] * 3 and said.count("SHA-256") == 3


def test_the_checkpoint_of_another_model(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_model(tmp_path / "other", MODELS["tied"])
    said = refused(tmp_path, good / "megatron", capsys, "--hf-path", str(other))
    assert "disagree: tie_embeddings is True" in said


def test_malicious_metadata_runs_nothing(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the conversion nor the check unpickles it; Megatron by itself would."""
    shutil.copytree(good / "megatron", tmp_path / "megatron")
    metadata(tmp_path / "megatron").write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    said = refused(tmp_path, tmp_path / "megatron", capsys, "--no-verify")
    assert "refused, nothing was run" in said and "posix.system" in said
    command = [sys.executable, "-m", "megatron_patch.checkpoint", "--source", str(good / "hf"), "--check-only"]
    done = subprocess.run([*command, "--output-path", str(tmp_path / "megatron")], capture_output=True, text=True)
    assert done.returncode == 2 and "refused, nothing was run" in done.stderr
    assert not (tmp_path / "ran").exists()
    pickle.loads(metadata(tmp_path / "megatron").read_bytes())  # that the attack is one
    assert (tmp_path / "ran").exists()


def test_a_block_that_is_not_what_the_metadata_says(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good / "megatron", tmp_path / "megatron")
    file = block(tmp_path / "megatron")
    size = file.stat().st_size
    torch.save(torch.zeros(3, 5), file)
    with file.open("ab") as stream:
        stream.write(b"\0" * (size - file.stat().st_size))
    assert "is damaged" in refused(tmp_path, tmp_path / "megatron", capsys, "--no-verify")
