"""Megatron loads the converted checkpoint, and Hugging Face's directly, at every layout; and the way back from each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from megatron_patch.checkpoint.cli import main

from ..trainer import warm
from ..trainer.harness import environment
from .models import FAMILIES, MODELS, make_model, read_weights, same_bits

WORKER = Path(__file__).with_name("load_worker.py")
LAYOUTS = re.findall(r'^    "(.+)": \{', WORKER.read_text(), re.M)
PRODUCT = re.findall(r'"(.+?)"', re.search(r"^PRODUCT = (.+)$", WORKER.read_text(), re.M)[1])
NAMES = ("untied", "tied", *FAMILIES)
PAIRS = [(name, layout) for name in NAMES for layout in (PRODUCT if name in FAMILIES else LAYOUTS)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Both models at every layout, in one launch of four processes: where they lie, and what was printed."""
    folder = tmp_path_factory.mktemp("models")
    for model in NAMES:
        hf = make_model(folder / model / "hf", MODELS[model])
        assert main(["--source", str(hf), "--output-path", str(folder / model / "megatron")]) == 0
        if model in FAMILIES:
            (folder / model / "product layouts only").touch()
    status = warm.run(
        WORKER,
        [str(folder / model) for model in NAMES],
        processes=4,
        environ=environment(),
        screen=folder / "screen",
        timeout=500,
    )
    assert status == 0, (folder / "screen.err").read_text()[-3000:]
    return folder, (folder / "screen.out").read_text()


@pytest.mark.parametrize(("model", "layout"), PAIRS)
def test_every_parameter_of_every_rank_is_the_slice_cut_by_hand(
    loaded: tuple[Path, str], layout: str, model: str
) -> None:
    (count,) = re.findall(rf"^{model} at {re.escape(layout)}: (\d+) parameters$", loaded[1], re.M)
    assert int(count) >= 4 * 6 + 2  # four layers of six tensors, the norm, the embedding


@pytest.mark.parametrize(("model", "layout"), PAIRS)
def test_what_a_layout_saved_comes_back_bit_for_bit(
    loaded: tuple[Path, str], layout: str, model: str, tmp_path: Path
) -> None:
    folder = loaded[0] / model
    comes_back(folder / "saved" / layout, folder / "hf", tmp_path / "back")


@pytest.mark.parametrize(("model", "layout"), PAIRS)
def test_the_per_rank_files_of_a_layout_come_back_bit_for_bit(
    loaded: tuple[Path, str], layout: str, model: str, tmp_path: Path
) -> None:
    """Megatron's old format: straight to Hugging Face, and through torch_dist."""
    folder = loaded[0] / model
    comes_back(folder / "per_rank" / layout, folder / "hf", tmp_path / "back")
    command = ["--source", str(folder / "per_rank" / layout), "--output-path", str(tmp_path / "torch_dist")]
    assert main([*command, "--direction", "mcore2mcore", "--hf-path", str(folder / "hf")]) == 0
    direct, made = (
        json.loads((path / "manifest.json").read_text()) for path in (folder / "megatron", tmp_path / "torch_dist")
    )
    assert made["files"] == direct["files"], "not what the conversion from Hugging Face gives"


def comes_back(source: Path, hf: Path, target: Path) -> None:
    assert main(["--source", str(source), "--output-path", str(target), "--hf-path", str(hf)]) == 0
    before, after = read_weights(hf), read_weights(target)
    assert before.keys() == after.keys()
    assert all(same_bits(tensor, after[name]) for name, tensor in before.items())
