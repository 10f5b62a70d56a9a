"""--trained-logits: logits at trained positions only give the same losses and gradients, at every layout."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch

from megatron_patch.backend.trained_positions import TakeRows, chosen_rows
from megatron_patch.data.sft.prepare import SFTData, open_components
from megatron_patch.data.train_tokenizer import save
from megatron_patch.data.train_tokenizer import train as train_tokenizer

from .harness import Run, launch_warm, train

TOLERANCE = 1e-6
WORDS = ["import", "return", "lambda", "yield", "class", "raise", "with", "assert", "global", "while"]
FEW = "--trained-logits 8"


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 questions with shorter answers: most positions are not trained."""
    chance = random.Random(3)
    path = tmp_path_factory.mktemp("conversations") / "train.jsonl"
    with path.open("w") as file:
        for _ in range(16):
            question, answer = (" ".join(chance.choices(WORDS, k=chance.randint(*few))) for few in ((4, 9), (1, 4)))
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory, conversations: Path) -> str:
    """Flags of finetuning from one common checkpoint, with a z-loss."""
    folder = tmp_path_factory.mktemp("begin")
    (folder / "corpus.jsonl").write_text(json.dumps({"text": " ".join(WORDS) + " user assistant\n\n"}) + "\n")
    save(train_tokenizer([folder / "corpus.jsonl"], vocab_size=640), folder / "tokenizer")
    flags = (
        f"--sft-data raw --calculate-per-token-loss --tokenizer-type HuggingFaceTokenizer --z-loss 0.1 "
        f"--tokenizer-model {folder}/tokenizer --seq-length 256 --max-position-embeddings 4096 --data-cache-path "
        f"{folder}/cache --train-iters 4 --lr-warmup-iters 0 --log-interval 1 --global-batch-size 4 "
    )
    train(folder, conversations, f"{flags} --init-method-std 0.1 --train-iters 1 --save {folder}/c --save-interval 1")
    return f"{flags} --load {folder}/c --finetune --no-load-optim --no-load-rng"


@pytest.fixture(scope="module")
def trained(conversations: Path, begin: str, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Positions of all conversations that are trained."""
    tokenizer = Path(begin.split("--tokenizer-model ")[1].split()[0])
    data = SFTData(tokenizer=tokenizer, seq_length=256, cache=tmp_path_factory.mktemp("cache"))
    (component,) = open_components([str(conversations)], data, say=print)
    return sum(int(component.samples.sample(number)[2].sum()) for number in range(16))


@pytest.mark.parametrize(
    ("layout", "processes"),
    [
        ("--micro-batch-size 2", 1),
        ("--micro-batch-size 2 --sft-packing --tensor-model-parallel-size 2 --sequence-parallel", 2),
        ("--micro-batch-size 2 --tensor-model-parallel-size 2", 2),
        pytest.param("--micro-batch-size 1 --sft-packing --context-parallel-size 2", 2, marks=pytest.mark.slow),
        pytest.param("--micro-batch-size 1 --context-parallel-size 2", 2, marks=pytest.mark.slow),
        pytest.param(
            "--micro-batch-size 2 --pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2",
            2,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_same_losses(
    layout: str, processes: int, tmp_path: Path, conversations: Path, begin: str, trained: int
) -> None:
    everywhere, chosen = (
        train(tmp_path / name, conversations, f"{begin} {layout} {flag}", processes=processes)
        for name, flag in (("all", ""), ("few", FEW))
    )
    if "packing" not in layout:  # four iterations are one epoch
        passes = 16 // int(layout.split()[1]) * (2 if "context" in layout else 1)
        assert 0 <= _positions(everywhere, chosen) - trained <= 7 * passes
    for name, tolerance in (("loss", TOLERANCE), ("z_loss", 1e-5), ("grad_norm", 1e-5)):
        pairs = list(zip(_values(everywhere, name), _values(chosen, name), strict=True))
        assert len(pairs) == 4
        assert max(abs(a - b) for a, b in pairs) <= tolerance, (name, pairs)


def _positions(everywhere: Run, chosen: Run) -> int:
    """That had logits, by the FLOPs that they are counted with: six of each of the LM head's weights."""
    rows = int(re.findall(r"vocabulary (\d+)", everywhere.stdout)[0])
    left_out = (sum(everywhere.flops) - sum(chosen.flops)) / (6 * 64 * rows)
    assert left_out == pytest.approx(round(left_out), abs=1e-3) and (16 * 256 - round(left_out)) % 8 == 0
    return 16 * 256 - round(left_out)


def _values(run: Run, name: str) -> list[float]:
    return [record[name] for record in run.metrics if name in record]


def test_pretraining_is_refused(tmp_path: Path, conversations: Path) -> None:
    run = launch_warm(tmp_path, conversations, FEW)
    assert run.returncode and "--trained-logits 8: takes a number of rows above 0, and --sft-data" in run.stderr


def test_rows_hold_every_trained_position() -> None:
    torch.manual_seed(0)
    for share in (0.0, 0.1, 0.5, 0.9):
        mask = (torch.rand(3, 64) < share).float() * 0.25  # weights, not only 0 and 1
        rows = chosen_rows(mask, 16)
        assert rows is None or len(rows) % 16 == 0 < len(rows) < 192
        taken = torch.zeros(192)
        taken[slice(None) if rows is None else rows] = 1
        assert taken.view(64, 3).t()[mask > 0].all()
        assert rows is None or (taken.sum() == len(rows) and len(rows) - (mask > 0).sum() < 16 + 16 * (share == 0))
    assert chosen_rows(torch.ones(2, 32), 16) is None


def test_gradient_of_taken_rows() -> None:
    table = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: TakeRows.apply(x, torch.tensor([1, 2, 7])), (table,))
