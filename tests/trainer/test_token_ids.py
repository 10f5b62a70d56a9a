"""The ranks' tokenizer has the ids that Megatron's own would have, without transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_patch.data.train_tokenizer import save, train
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.trainer.data.token_ids import token_ids
from megatron_patch.trainer.errors import TrainerError

ARGUMENTS = {
    "tokenizer_type": "HuggingFaceTokenizer", "padded_vocab_size": 768, "special_tokens": None, "vocab_file": None,
    "merge_file": None, "metadata_path": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with all its special tokens."""
    where = tmp_path_factory.mktemp("ids")
    (where / "text.jsonl").write_text(json.dumps({"text": Path(__file__).read_text()}) + "\n")
    save(train([where / "text.jsonl"], vocab_size=700), where / "tokenizer")
    return where / "tokenizer"


def without_pad(folder: Path, target: Path) -> Path:
    """The same tokenizer, as most base models have it: nothing pads."""
    target.mkdir()
    for file in folder.iterdir():
        content = json.loads(file.read_text())
        content.pop("pad_token", None)
        (target / file.name).write_text(json.dumps(content))
    return target


@pytest.mark.parametrize("pads", [True, False])
def test_ids_are_those_of_megatron(folder: Path, tmp_path: Path, pads: bool) -> None:
    from megatron.core.tokenizers import MegatronTokenizer

    place = folder if pads else without_pad(folder, tmp_path / "tokenizer")
    theirs = MegatronTokenizer.from_pretrained(tokenizer_path=str(place), metadata_path={"library": "huggingface"})
    ours = token_ids(SimpleNamespace(**ARGUMENTS, tokenizer_model=str(place)))
    assert ours is not None
    for name in ("vocab_size", "eod", "eos", "pad"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.pad is not None) == pads
    assert ours.eod is not None


@pytest.mark.parametrize(
    "change", [{"tokenizer_type": "NullTokenizer"}, {"padded_vocab_size": None}, {"special_tokens": ["<more>"]}]
)
def test_other_tokenizers_are_megatrons(folder: Path, change: dict[str, object]) -> None:
    assert token_ids(SimpleNamespace(**(ARGUMENTS | change), tokenizer_model=str(folder))) is None


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=f"{tmp_path} has no tokenizer_config.json"):
        token_ids(SimpleNamespace(**ARGUMENTS, tokenizer_model=str(tmp_path)))


def test_no_rank_of_pretraining_imports_transformers(folder: Path) -> None:
    """What a rank imports before its model is built: transformers alone would cost as long as Megatron."""
    code = """
import sys
from types import SimpleNamespace
from megatron_patch.backend import enable
enable("cpu")
import megatron.training
from megatron_patch.trainer import entry, step, summary
from megatron_patch.trainer.data import datasets
from megatron_patch.trainer.data import sft
from megatron_patch.trainer.data.token_ids import token_ids
token_ids(SimpleNamespace(**eval(sys.argv[1])))
print(*sorted({"torch", "megatron", "transformers", "accelerate", "pandas", "sklearn", "datasets"} & set(sys.modules)))
"""
    arguments = repr(ARGUMENTS | {"tokenizer_model": str(folder)})
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert run.stdout.split() == ["megatron", "torch"]
