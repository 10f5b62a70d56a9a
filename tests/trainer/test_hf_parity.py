"""The trainer against Hugging Face: a tiny model, the same weights and batches, 20 steps of AdamW in fp32.

This is the test that says that the trainer is right: the driver's flags, Megatron's model, loss, gradients, clipping,
weight decay, schedule and order of samples all enter, and so does the converter. Llama sees one process and its
export; every other family of models/ one product layout.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_patch.checkpoint.cli import main as convert
from megatron_patch.checkpoint.random_model import make_hf_checkpoint
from megatron_patch.data.idxmap.writer import IdxmapWriter
from megatron_patch.models import families

from . import driver
from .driver import write_word_tokenizer
from .harness import environment, read_metrics

STEPS, BATCH, MICRO, SEQ, WARMUP, PEAK, LOW = 20, 8, 2, 64, 2, 1e-3, 1e-4
VOCAB = 2048
"""A multiple of 128: rows of padding would be in Megatron's softmax and not in Hugging Face's."""
IDS = 24
FIRST_LOSS, EVERY_LOSS, GRAD_NORM = 2e-6, 1e-4, 1e-3


def make_documents(seed: int = 0) -> list[list[int]]:
    """Few of the ids, with a pattern to learn: each follows from the one before."""
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(300):
        steps = generator.integers(1, 4, size=int(generator.integers(20, 120)))
        documents.append(((generator.integers(IDS) + np.cumsum(steps)) % IDS).tolist())
    return documents


LLAMA, *OTHERS = (name for name, family in families().items() if "tiny" in family.sizes)
LLAMA_ONLY = pytest.mark.parametrize("world", [LLAMA], indirect=True, scope="module")
OTHERS_TOO = pytest.mark.parametrize(
    "world", [LLAMA, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)], indirect=True, scope="module"
)


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hf`, `mcore` and `data`: a model of a family in both formats, and an idxmap."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = write_word_tokenizer(folder / "tokenizer", VOCAB)
    shape = replace(families()[request.param].sizes["tiny"], hidden_size=128, ffn_hidden_size=256, head_dim=16)
    make_hf_checkpoint(folder / "hf", shape, precision="fp32", vocab_size=VOCAB, tokenizer=tokenizer)
    assert convert(["--source", str(folder / "hf"), "--output-path", str(folder / "mcore")]) == 0
    with IdxmapWriter(folder / "data", VOCAB) as writer:
        for document in make_documents():
            writer.add_document(document)
    return folder


def drive(world: Path, checkpoint: str, tp: int, pp: int, sp: str = "false") -> list[dict]:
    """The driver with its 25 values."""
    output = world / f"{checkpoint}-tp{tp}-pp{pp}"
    tokens = BATCH * SEQ
    values = [
        "dsw", "auto", MICRO, BATCH, PEAK, LOW, SEQ, SEQ, "fp32", tp, pp, 1, sp, "false", "true", "false", "false",
        "false", STEPS, world / "data", "none", world / checkpoint, STEPS * tokens, WARMUP * tokens, output,
    ]  # fmt: skip
    mp = {"MP_NPROC": str(tp * pp), "MP_TOKENIZER_PATH": str(world / "tokenizer"), "MP_EXPORT_HF": "1"}
    driver.train(values, warm=output.with_name(f"{output.name}.screen"), **mp)
    return [record for record in read_metrics(output) if "loss" in record]


@pytest.fixture(scope="module")
def ours(world: Path) -> list[dict]:
    """One process, from the converted checkpoint."""
    return drive(world, "mcore", 1, 1)


def theirs(world: Path, run: str) -> list[dict]:
    """Hugging Face's model in a plain loop, over the samples of a run; once for each world."""
    if not (world / "theirs.json").exists():
        settings = {
            "model": str(world / "hf"), "cache": str(world / run / "cache"), "documents": make_documents(),
            "length": SEQ, "steps": STEPS, "batch": BATCH, "peak": PEAK, "low": LOW, "warmup": WARMUP,
        }  # fmt: skip
        (world / "settings.json").write_text(json.dumps(settings))
        loop = [sys.executable, str(Path(__file__).with_name("hf_loop.py")), str(world / "settings.json")]
        subprocess.run([*loop, str(world / "theirs.json")], env=environment(), check=True)
    return json.loads((world / "theirs.json").read_text())


def compare(mine: list[dict], theirs: list[dict]) -> None:
    assert len(mine) == len(theirs) == STEPS
    gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(mine, theirs, strict=True)]
    print(f"loss {theirs[0]['loss']:.4f} to {theirs[-1]['loss']:.4f}; first gap {gaps[0]:.1e}, largest {max(gaps):.1e}")
    assert gaps[0] <= FIRST_LOSS
    assert max(gaps) <= EVERY_LOSS, gaps
    for a, b in zip(mine, theirs, strict=True):
        assert a["lr"] == pytest.approx(b["lr"], rel=1e-6, abs=1e-12)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=GRAD_NORM)
    assert theirs[-1]["loss"] < theirs[0]["loss"] - 1.0, "nothing was learned, so nothing was compared"


@OTHERS_TOO
def test_one_process_trains_as_hugging_face_does(world: Path, ours: list[dict]) -> None:
    compare(ours, theirs(world, "mcore-tp1-pp1"))


@OTHERS_TOO
def test_tensor_pipeline_and_sequence_parallel(world: Path) -> None:
    """Tied embeddings too (Qwen3): their gradient travels between the first and the last stage."""
    mine = drive(world, "mcore", 2, 2, sp="true")
    compare(mine, theirs(world, "mcore-tp2-pp2"))


@OTHERS_TOO
def test_the_exported_folder_is_the_conversion_and_loads(world: Path, ours: list[dict]) -> None:
    """MP_EXPORT_HF=1: what the converter would write, and what transformers reads."""
    run = world / "mcore-tp1-pp1"
    assert convert(["--source", str(run), "--output-path", str(world / "back")]) == 0
    exported, converted = (json.loads((path / "manifest.json").read_text()) for path in (run / "hf", world / "back"))
    assert exported == converted and exported["source"] == f"iter_{STEPS:07d}"
    model, facts = AutoModelForCausalLM.from_pretrained(run / "hf", dtype=torch.float32, output_loading_info=True)
    assert not facts["missing_keys"] and not facts["unexpected_keys"] and not facts["mismatched_keys"]
    sample = torch.tensor([make_documents(seed=1)[0]])
    before = AutoModelForCausalLM.from_pretrained(world / "hf", dtype=torch.float32)
    assert model(sample, labels=sample).loss < before(sample, labels=sample).loss - 1.0, "not the trained weights"


@LLAMA_ONLY
@pytest.mark.slow
def test_a_finished_run_is_exported_when_its_folder_is_missing(world: Path, ours: list[dict]) -> None:
    """Killed between the last checkpoint and the export, the same command makes up for it."""
    before = (world / "mcore-tp1-pp1" / "hf" / "manifest.json").read_text()
    shutil.rmtree(world / "mcore-tp1-pp1" / "hf")
    drive(world, "mcore", 1, 1)
    assert (world / "mcore-tp1-pp1" / "hf" / "manifest.json").read_text() == before


@OTHERS_TOO
@pytest.mark.slow
def test_straight_from_hugging_face_is_the_same_run(world: Path, ours: list[dict]) -> None:
    """No conversion: the ranks read their slices from the safetensors."""
    from_hf = drive(world, "hf", 1, 1)
    assert [r["loss"] for r in from_hf] == [r["loss"] for r in ours]
