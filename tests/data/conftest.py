"""A small tokenizer, trained by the project's own tool on this repository's sources; a folder of all forms of text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_patch.data import corpus as corpus_module
from megatron_patch.data.train_tokenizer import save, train

from .mixed import write_mixed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON Lines of a few real files, with text outside ASCII."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    sources = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "megatron_patch").glob("*/*.py"))[:20]]
    sources += ["北京大学 Großhandel 🦙🦙 naïve ٣", "<|begin_of_text|>not special?<|eot_id|>", " \n", "x" * 5000]
    path.write_text("".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(sources)))
    return path


@pytest.fixture(scope="session")
def tokenizer_folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    save(train([corpus], vocab_size=1024), folder)
    return folder


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks of little data."""
    monkeypatch.setattr(corpus_module, "CHUNK_BYTES", 3000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files of all forms: `mixed.TEXTS`."""
    write_mixed(tmp_path / "source")
    return tmp_path / "source"
