"""Finetuning on conversations: packed equals unpacked, at every layout, and nothing leaks between samples."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest

from megatron_patch.data.sft.held_out import hold_out
from megatron_patch.data.sft.layout import RowLayout
from megatron_patch.data.sft.prepare import SFTData, open_components
from megatron_patch.data.train_tokenizer import save
from megatron_patch.data.train_tokenizer import train as train_tokenizer

from .harness import SCRIPT, Run, launch_and_signal, launch_warm, train

TOLERANCE = 2e-6
SAMPLES = 24
SEQ_LENGTH = 512
WORDS = ["import", "return", "lambda", "yield", "class", "raise", "with", "assert", "global", "while"]

LEAKING = """
from megatron_patch.backend import enable

enable("cpu")
from megatron_patch.backend.cpu import attention

attention._sequence_bounds = lambda total, packed: [(0, total)]  # every sample sees those before it in the row
from megatron_patch.trainer.entry import main

main()
"""


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of one to three turns, some with a system prompt."""
    chance = random.Random(7)
    rows = []
    for number in range(SAMPLES):
        messages = [{"role": "system", "content": "Be brief."}] if number % 3 == 0 else []
        for _ in range(1 + number % 3):
            question, answer = (" ".join(chance.choices(WORDS, k=chance.randint(1, 7))) for _ in range(2))
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages})
    path = tmp_path_factory.mktemp("sft") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of fixed text, so that rows come out the same whatever the repository holds."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "corpus.jsonl").write_text(json.dumps({"text": " ".join(WORDS) + " system user assistant\n\n"}) + "\n")
    save(train_tokenizer([folder / "corpus.jsonl"], vocab_size=640), folder / "tokenizer")
    return folder / "tokenizer"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def rows(conversations: Path, cache: Path, tokenizer_folder: Path) -> int:
    """Packed rows of one epoch, at CP 2 too."""
    data = SFTData(tokenizer=tokenizer_folder, seq_length=SEQ_LENGTH, cache=cache, workers=1)
    (component,) = open_components([str(conversations)], data, say=print)
    counts = {
        len(
            RowLayout(seq_length=SEQ_LENGTH, packing=True, pad_id=0, context_parallel_size=size).rows(
                component.samples.lengths
            )
        )
        for size in (1, 2)
    }
    assert len(counts) == 1 and not sum(counts) % 2, "the tests want as many rows at CP 2, and an even number"
    (count,) = counts
    assert count <= SAMPLES // 2, "the tests want several samples in a row"
    return count


@pytest.fixture(scope="module")
def flags(tokenizer_folder: Path, cache: Path) -> str:
    return (
        f"--sft-data raw --calculate-per-token-loss --tokenizer-type HuggingFaceTokenizer "
        f"--tokenizer-model {tokenizer_folder} --seq-length {SEQ_LENGTH} --max-position-embeddings 4096 "
        f"--data-cache-path {cache} --train-iters 4 --lr-warmup-iters 0 --log-interval 1"
    )


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory, conversations: Path, flags: str) -> str:
    """Flags that start from one common checkpoint, whose large weights make attention matter from the first step."""
    output = tmp_path_factory.mktemp("begin")
    make = f"--init-method-std 0.1 --train-iters 1 --save {output}/checkpoints --save-interval 1"
    train(output, conversations, f"{flags} {make}")
    return f"{flags} --load {output}/checkpoints --finetune --no-load-optim --no-load-rng"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, conversations: Path, begin: str, rows: int) -> Run:
    """One epoch in each iteration, packed, on one process."""
    extra = f"{begin} --sft-packing --micro-batch-size 1 --global-batch-size {rows}"
    return train(tmp_path_factory.mktemp("packed"), conversations, extra)


def assert_same(run: Run, reference: Run, tolerance: float = TOLERANCE) -> None:
    assert len(run.losses) == len(reference.losses) == 4
    assert max(abs(a - b) for a, b in zip(run.losses, reference.losses, strict=True)) <= tolerance
    norms = [[record["grad_norm"] for record in one.metrics] for one in (run, reference)]
    assert max(abs(a - b) for a, b in zip(*norms, strict=True)) <= 10 * tolerance


def test_packed_equals_unpacked(tmp_path: Path, conversations: Path, begin: str, packed: Run) -> None:
    run = train(tmp_path, conversations, f"{begin} --micro-batch-size 2 --global-batch-size {SAMPLES}")
    assert_same(run, packed)
    assert run.losses[0] > run.losses[-1]
    assert "training: 24 of 24 rows used" in run.stdout


@pytest.mark.parametrize(
    ("processes", "layout"),
    [
        (1, "--micro-batch-size 2"),
        (2, "--micro-batch-size 1 --context-parallel-size 2"),
        (2, "--micro-batch-size 2 --pipeline-model-parallel-size 2"),
        pytest.param(2, "--micro-batch-size 2 --tensor-model-parallel-size 2", marks=pytest.mark.slow),
        pytest.param(
            4,
            "--micro-batch-size 2 --tensor-model-parallel-size 2 --sequence-parallel --context-parallel-size 2",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            4,
            "--micro-batch-size 1 --context-parallel-size 2 --pipeline-model-parallel-size 2",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_packed_rows_lose_the_same_in_every_layout(
    tmp_path: Path, conversations: Path, begin: str, rows: int, packed: Run, processes: int, layout: str
) -> None:
    extra = f"{begin} --sft-packing --global-batch-size {rows} {layout}"
    assert_same(train(tmp_path, conversations, extra, processes=processes), packed)


def test_a_leak_is_seen(tmp_path: Path, conversations: Path, begin: str, rows: int, packed: Run) -> None:
    """The comparison above is worth something: without the boundaries the first loss differs."""
    script = tmp_path / "leaking.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(SCRIPT.parents[2])!r})\n{LEAKING}")
    extra = f"{begin} --sft-packing --micro-batch-size 1 --global-batch-size {rows} --train-iters 4"
    run = launch_warm(tmp_path / "out", conversations, extra, script=script)
    assert run.returncode == 0, run.stderr
    assert abs(run.losses[0] - packed.losses[0]) > 100 * TOLERANCE


@pytest.mark.slow
def test_each_sample_weighs_the_same(tmp_path: Path, conversations: Path, begin: str, rows: int, packed: Run) -> None:
    """--sft-average sequence: the same at CP 2, where a sample's weight is spread over two ranks, and packed or not."""
    average = f"{begin} --sft-average sequence --train-iters 4"
    plain = train(tmp_path / "plain", conversations, f"{average} --micro-batch-size 2 --global-batch-size {SAMPLES}")
    extra = f"{average} --sft-packing --micro-batch-size 1 --global-batch-size {rows} --context-parallel-size 2"
    assert_same(train(tmp_path / "cp", conversations, extra, processes=2), plain)
    assert abs(plain.losses[0] - packed.losses[0]) > 100 * TOLERANCE


def test_validation_of_each_set(tmp_path: Path, conversations: Path, begin: str, packed: Run) -> None:
    """Two sets: one loss over both and one of each; the same rows each time."""
    other = tmp_path / "other.jsonl"
    shutil.copy(conversations, other)
    extra = (
        f"{begin} --micro-batch-size 2 --global-batch-size 8 --lr 0 --min-lr 0 --eval-interval 2 --eval-iters 6 "
        f"--valid-data-path 0.5 {conversations} 0.5 {other}"
    )
    run = train(tmp_path / "out", conversations, extra)
    records = [record for record in run.metrics if "validation_loss" in record]
    assert len(records) >= 2
    for record in records:
        assert set(record["validation_losses"]) == {str(conversations), str(other)}
        assert list(record["validation_losses"].values()) == pytest.approx([packed.losses[0]] * 2, abs=1e-5)
    assert len({record["validation_loss"] for record in records}) == 1


def test_killed_in_the_middle_of_an_epoch(tmp_path: Path, conversations: Path, begin: str) -> None:
    """The resumed run repeats the losses of the one that was never killed, bit for bit."""
    shape = "--sft-packing --micro-batch-size 1 --global-batch-size 2 --train-iters 12"
    whole = train(tmp_path / "whole", conversations, f"{begin} {shape}")
    output = tmp_path / "killed"
    save = f"--save {output}/checkpoints --save-interval 5"
    launch_and_signal(output, conversations, f"{begin} {shape} {save}", processes=1, iteration=7, number=signal.SIGKILL)
    fresh = begin.split(" --load ")[0]
    resumed = train(output, conversations, f"{fresh} {shape} {save} --load {output}/checkpoints")
    assert resumed.losses == whole.losses


def test_what_is_held_out_is_as_if_it_were_a_file_of_its_own(
    tmp_path: Path, conversations: Path, tokenizer_folder: Path, cache: Path, begin: str
) -> None:
    """Losses of training and validation, bit for bit."""
    data = SFTData(tokenizer=tokenizer_folder, seq_length=SEQ_LENGTH, cache=cache, workers=1)
    (whole,) = open_components([str(conversations)], data, say=print)
    files, lines = [], conversations.read_text().splitlines(keepends=True)
    for name, part in zip(("train", "valid"), hold_out(whole, "75,25"), strict=True):
        chosen = [int(str(part.samples.origin(at)).rpartition(":")[2]) for at in range(len(part.samples.lengths))]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(lines[line - 1] for line in chosen))
    extra = f"{begin} --micro-batch-size 2 --global-batch-size 6 --eval-interval 2 --eval-iters 1"
    split = train(tmp_path / "split", conversations, f"{extra} --sft-split 75,25")
    apart = train(tmp_path / "apart", files[0], f"{extra} --valid-data-path {files[1]}")
    values = [[(record.get("loss"), record.get("validation_loss")) for record in run.metrics] for run in (split, apart)]
    assert values[0] == values[1] and sum(one[1] is not None for one in values[0]) == 2


def test_a_run_with_validation_is_extended(tmp_path: Path, conversations: Path, flags: str) -> None:
    """The second start plans fewer validations than the first one had: 12 rows, of which 16 were read."""
    saving = f"--save {tmp_path}/checkpoints --save-interval 100 --override-opt_param-scheduler"
    saving += f" --valid-data-path {conversations}"
    common = f"{flags} {saving} --micro-batch-size 1 --global-batch-size 2"
    first = train(tmp_path, conversations, f"{common} --train-iters 4 --eval-interval 1 --eval-iters 2")
    start = f"--load {tmp_path}/checkpoints --ckpt-step 4 --train-iters 5 --eval-interval 4 --eval-iters 3"
    second = train(tmp_path, conversations, f"{common} {start}")
    assert second.metrics[: len(first.metrics)] == first.metrics
    assert [record["iteration"] for record in second.metrics if "validation_loss" in record] == [1, 2, 3, 4, 5]
