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
from megatron_patch.models import model_of_size

from .conftest import Once
from .harness import EXACT

SHAPE = replace(model_of_size("8B"), num_layers=3, vocab_size=2048)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_are_hugging_faces(once: Once, precision: str) -> None:
    """Each layer's output and the logits: in fp32 the same, in bf16 as near to fp32 as Hugging Face's own bf16."""
    folder = once("hf-8b-width", lambda target: make_hf_checkpoint(target / "model", SHAPE, precision="fp32", seed=5))
    worker = [sys.executable, "-m", "tests.gpu.layers_worker", str(folder / "model"), precision]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = os.environ | EXACT | {"PYTHONPATH": path}
    done = subprocess.run(worker, cwd=root, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    errors = json.loads(done.stdout.strip().splitlines()[-1])
    print(precision, [f"{ours:.1e} ({theirs:.1e})" for ours, theirs in errors])
    assert len(errors) == SHAPE.num_layers
    assert all(ours <= max(1e-5, 1.25 * theirs) for ours, theirs in errors)
