"""The layers of 8B's width, on the GPU, against Hugging Face's on the same GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_patch.checkpoint.random_model import make_hf_checkpoint
from megatron_patch.families import LLAMA_3_1

from .conftest import Once
from .harness import EXACT

SHAPE = replace(LLAMA_3_1.shape("8B"), num_layers=3, vocab_size=2048)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_layers_are_hugging_faces(once: Once, precision: str, tolerance: float) -> None:
    """Relative error of each layer's output and of the logits; a wrong RoPE or a swapped weight gives 0.1 and more."""
    folder = once("hf-8b-width", lambda target: make_hf_checkpoint(target / "model", SHAPE, precision="fp32", seed=5))
    worker = [sys.executable, "-m", "tests.gpu.layers_worker", str(folder / "model"), precision]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = os.environ | EXACT | {"PYTHONPATH": path}
    done = subprocess.run(worker, cwd=root, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    errors = json.loads(done.stdout.strip().splitlines()[-1])
    print(precision, [f"{error:.1e}" for error in errors])
    assert len(errors) == SHAPE.num_layers and max(errors) <= tolerance
