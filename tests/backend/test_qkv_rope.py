"""The kernel that splits q, k, v and rotates: the formula, and the same training as Megatron's own functions."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from megatron_patch.backend.cpu.attention import rows_of_rank
from megatron_patch.data.train_tokenizer import save
from megatron_patch.data.train_tokenizer import train as train_tokenizer

from ..trainer.harness import build_idxmap, launch, launch_warm

pytest.importorskip("triton")
REPOSITORY = Path(__file__).resolve().parents[2]
INTERPRETED = """
import os

os.environ["TRITON_INTERPRET"] = "1"
from megatron_patch.backend import enable

enable("cpu")
from megatron_patch.backend.gpu import qkv_rope

qkv_rope.obstacle = lambda *any: None  # the CPU's configuration says that nothing is fused
qkv_rope.split_and_rotate_together(lambda line: print(line))
from megatron_patch.trainer.entry import main

main()
"""


def test_the_kernel_is_within_2e_6_of_torch() -> None:
    worker = Path(__file__).with_name("qkv_rope_worker.py")
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(worker)], env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert max(float(word) for line in lines for word in line.split()) < 2e-6


@pytest.mark.parametrize("cp_size", [1, 2, 4])
def test_positions_in_packs(cp_size: int) -> None:
    from megatron_patch.backend.gpu.qkv_rope import positions_in_packs

    ends = torch.tensor([0, 8, 32, 40, 64, 64, 64], dtype=torch.int32)  # filled up, as rows are
    whole = torch.cat([torch.arange(end - start) for start, end in pairwise(ends.tolist())])
    for rank in range(cp_size):
        expected = whole if cp_size == 1 else whole[rows_of_rank(ends.tolist(), cp_size, rank)]
        found = positions_in_packs(ends, 64 // cp_size, cp_size, rank)
        assert found.dtype == torch.int32 and torch.equal(found.long(), expected)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "interpreted.py"
    path.write_text(INTERPRETED)
    return path


WIDE = "--num-layers 2 --kv-channels 64 --train-iters 3 --lr-decay-iters 3 --lr-warmup-iters 1 --init-method-std 0.2 "


@pytest.mark.parametrize(
    ("layout", "processes"),
    [
        ("--seq-length 32", 1),
        pytest.param("--seq-length 32 --tensor-model-parallel-size 2 --sequence-parallel", 2, marks=pytest.mark.slow),
        pytest.param("--seq-length 32 --context-parallel-size 2", 2, marks=pytest.mark.slow),
        pytest.param(
            "--seq-length 32 --recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
            1,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_same_training(layout: str, processes: int, tmp_path: Path, script: Path) -> None:
    data = build_idxmap(tmp_path / "documents")
    _same(tmp_path, data, f"{WIDE} --global-batch-size 4 {layout}", script, processes)


@pytest.mark.slow
@pytest.mark.parametrize("cp_size", [1, 2])
def test_the_same_packed_finetuning(cp_size: int, tmp_path: Path, script: Path) -> None:
    chance, words = random.Random(3), ["import", "return", "lambda", "yield", "class", "raise"]
    rows = [[" ".join(chance.choices(words, k=chance.randint(2, 6))) for _ in range(2)] for _ in range(16)]
    with (tmp_path / "train.jsonl").open("w") as file:
        for question, answer in rows:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": " ".join(words) + " user assistant\n\n"}) + "\n")
    save(train_tokenizer([tmp_path / "corpus.jsonl"], vocab_size=640), tmp_path / "tokenizer")
    flags = (
        f"{WIDE} --sft-data raw --sft-packing --calculate-per-token-loss --tokenizer-type HuggingFaceTokenizer "
        f"--tokenizer-model {tmp_path}/tokenizer --seq-length 128 --max-position-embeddings 4096 --data-cache-path "
        f"{tmp_path}/cache --global-batch-size 2 --micro-batch-size 2 --context-parallel-size {cp_size}"
    )
    _same(tmp_path, tmp_path / "train.jsonl", flags, script, cp_size)


def _same(folder: Path, data: Path, flags: str, script: Path, processes: int) -> None:
    apart = launch_warm(folder / "apart", data, flags, processes=processes)
    together = launch(folder / "together", data, flags, processes=processes, script=script)
    assert apart.returncode == together.returncode == 0, apart.stderr + together.stderr
    assert "RoPE and the split of q, k, v: one kernel" in together.log()
    for name in ("loss", "grad_norm"):
        pairs = [(a[name], b[name]) for a, b in zip(apart.metrics, together.metrics, strict=True) if name in a]
        assert len(pairs) == 3 and max(abs(a - b) for a, b in pairs) <= 5e-6, (name, pairs)
