"""NaN and spikes in real runs: a document that makes the loss NaN, met by each policy of MP_ON_SPIKE."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_patch.runs.recovery import Event, note_event, passed_over, read_events, refuse_rollback
from megatron_patch.trainer.spikes import LEAST, SpikeRule

from .harness import REPOSITORY, VOCAB_SIZE, Run, complete_iterations, launch_by_torchrun, read_checkpoint, train
from .poisoned import POISON

SCRIPT = Path(__file__).with_name("poisoned.py")
DOCUMENT, AT = 77, 3
"""The poisoned document, and the iteration whose batch it is in."""


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An idxmap, one document of which has the token whose embedding is inf."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder, get_bin_path, get_idx_path

    prefix = tmp_path_factory.mktemp("poisoned") / "documents"
    generator = np.random.default_rng(0)
    builder = IndexedDatasetBuilder(get_bin_path(str(prefix)), dtype=np.uint16)
    for number in range(200):
        length = int(generator.integers(20, 120))
        steps = generator.integers(1, 4, size=length)
        tokens = (generator.integers(VOCAB_SIZE) + np.cumsum(steps)) % POISON
        tokens[-1] = VOCAB_SIZE - 1
        if number == DOCUMENT:
            tokens[5] = POISON
        builder.add_document(tokens.astype(np.uint16), [length])
    builder.finalize(get_idx_path(str(prefix)))
    return prefix


def run(output: Path, data: Path, extra: str, *, processes: int = 1, torchrun: bool = False) -> Run:
    flags = f"--train-iters 12 --save {output}/checkpoints --save-interval 1 {extra}"
    if torchrun:
        return launch_by_torchrun(output, data, flags, processes=processes, script=SCRIPT)
    return train(output, data, flags, processes=processes, script=SCRIPT)


@pytest.fixture(scope="module")
def skipped(tmp_path_factory: pytest.TempPathFactory, poisoned: Path) -> Run:
    """One process that skips, while it records a profile."""
    flags = f"--on-spike skip --trace-iterations {AT - 1}-{AT + 1}"
    return run(tmp_path_factory.mktemp("skipped"), poisoned, flags)


def test_the_step_is_not_taken(skipped: Run) -> None:
    """Weights and moments are bit for bit those of the step before, and the documents are named."""
    before, after = (read_checkpoint(skipped.output / f"checkpoints/iter_{AT + by:07d}") for by in (-1, 0))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    by_iteration = {record["iteration"]: record for record in skipped.metrics}
    assert by_iteration[AT]["skipped"] is True and by_iteration[AT]["loss"] is None
    assert "NaN or inf" in by_iteration[AT]["refusal"]
    assert all(math.isfinite(by_iteration[number]["loss"]) for number in range(1, 13) if number != AT)
    (event,) = read_events(skipped.output)
    assert (event.kind, event.iteration) == ("skip", AT)
    assert any(
        f"document {DOCUMENT} of {path}" in event.details for path in {detail.split()[-1] for detail in event.details}
    )
    assert len(event.details) < 8, "of one micro batch of four"
    assert f"iteration {AT}: the loss is NaN or inf: the step is skipped (of the batch: document " in skipped.stdout
    assert "spikes: 1 step skipped; see events.jsonl" in skipped.stdout


def test_a_profile_names_the_step_that_was_not_taken(skipped: Run) -> None:
    profile = json.loads((skipped.output / "profile" / "rank_0.json").read_text())
    assert (profile["iterations"], profile["steps"], profile["skipped"]) == ([AT - 1, AT + 1], 3, [AT])
    said = f"profile of rank 0, iterations {AT - 1} to {AT + 1}, {AT} skipped (no optimizer step): "
    assert said in skipped.stdout


@pytest.mark.parametrize(
    "extra",
    ["", "--tensor-model-parallel-size 2", "--pipeline-model-parallel-size 2", "--use-distributed-optimizer"],
    ids=["DP", "TP", "PP", "DO"],
)
def test_all_ranks_agree(tmp_path: Path, poisoned: Path, skipped: Run, extra: str) -> None:
    """Two processes skip the same step, and name the same documents, whichever of them saw it."""
    found = run(tmp_path, poisoned, f"--on-spike skip {extra}", processes=2)
    assert [record["iteration"] for record in found.metrics if record.get("skipped")] == [AT]
    assert [event.details for event in read_events(tmp_path)] == [
        event.details for event in read_events(skipped.output)
    ]
    if "pipeline" not in extra:  # whose stages draw other random weights
        np.testing.assert_allclose(found.losses[AT:], skipped.losses[AT:], atol=2e-6)


def test_a_resumed_run_decides_as_if_it_had_not_stopped(tmp_path: Path, poisoned: Path, skipped: Run) -> None:
    flags = "--on-spike skip --spike-factor 1.01 --spike-window 8"
    whole = run(tmp_path / "whole", poisoned, flags)
    parts = tmp_path / "parts"
    run(parts, poisoned, f"{flags} --exit-interval 10")
    resumed = run(parts, poisoned, f"{flags} --load {parts}/checkpoints --ckpt-step 10")
    assert resumed.metrics[-1]["iteration"] == 12
    for one, other in zip(whole.metrics, resumed.metrics, strict=True):
        assert [one.get(name) for name in ("loss", "grad_norm", "skipped", "refusal")] == [
            other.get(name) for name in ("loss", "grad_norm", "skipped", "refusal")
        ]
    assert len([record for record in whole.metrics if record.get("skipped")]) >= 1


@pytest.mark.slow
def test_off_ends_the_run(tmp_path: Path, poisoned: Path) -> None:
    """Right iteration, documents named, and the checkpoint that was being written meanwhile is whole."""
    found = run(tmp_path, poisoned, "--background-save --tensor-model-parallel-size 2", processes=2, torchrun=True)
    assert found.returncode == 1
    assert (
        f"iteration {AT}: a loss or a gradient is NaN or inf. The weights are those of iteration {AT - 1}"
        in found.stderr
    )
    assert f"document {DOCUMENT} of {poisoned}" in found.stderr
    assert complete_iterations(tmp_path / "checkpoints")[-1] == AT - 1
    assert not list((tmp_path / "checkpoints").glob(".incomplete*"))
    assert [event.kind for event in read_events(tmp_path)] == ["spike"]


@pytest.mark.slow
def test_stop_and_rollback(tmp_path: Path, poisoned: Path, skipped: Run) -> None:
    """Statuses 3 and 4; the next start goes on behind the batch, from the weights of the checkpoint before it."""
    stopped = run(tmp_path / "stop", poisoned, "--on-spike stop", torchrun=True)
    assert stopped.returncode == 3
    assert complete_iterations(tmp_path / "stop" / "checkpoints")[-1] == AT - 1
    back = tmp_path / "back"
    flags = f"--on-spike rollback --trace-iterations {AT}-{AT + 1}"
    first = run(back, poisoned, f"{flags} --background-save", torchrun=True)
    assert first.returncode == 4, first.stderr
    assert (
        f"no profile of iterations {AT}-{AT + 1} (MP_PROFILE): the run ended after iteration {AT - 1}" in first.stdout
    )
    assert (
        f"iteration {AT}: the loss is NaN or inf: back to iteration {AT - 1}, and on with the data after it"
        in first.stderr
    )
    second = run(back, poisoned, f"{flags} --load {back}/checkpoints --ckpt-step {AT - 1}")
    assert f"rolled back: iterations {AT} to {AT} are passed over with their data" in second.stdout
    assert f"no checkpoint is saved at {AT}: Megatron saves nothing" in second.stdout
    assert complete_iterations(back / "checkpoints") == [number for number in range(1, 13) if number != AT]
    assert [record["iteration"] for record in second.metrics] == [number for number in range(1, 13) if number != AT]
    profile = json.loads((back / "profile" / "rank_0.json").read_text())
    assert (profile["iterations"], profile["steps"], profile["skipped"]) == ([AT + 1, AT + 1], 1, [])
    assert second.losses[AT - 1 :] == skipped.losses[AT:], "as if the step had been skipped: there was nothing between"
    more = f"--exit-interval {AT} --valid-data-path {poisoned} --eval-interval {AT} --eval-iters 1"
    third = run(back, poisoned, f"--on-spike rollback {more} --load {back}/checkpoints --ckpt-step {AT - 1}")
    assert f"no validation at {AT}: Megatron does none" in third.stdout
    assert f"the run does not end at {AT}, where --exit-interval asks for it" in third.stdout
    assert third.metrics[-1]["iteration"] == 2 * AT


def test_skips_without_end_stop(tmp_path: Path, poisoned: Path) -> None:
    """A model that is NaN itself is not trained on by skipping all its batches."""
    found = launch_by_torchrun(tmp_path, poisoned, "--train-iters 30 --on-spike skip --lr 1e30 --lr-warmup-iters 0")
    assert found.returncode == 3, found.stderr
    assert "as in the 4 steps before: it is not the data of one batch" in found.stderr
    assert len([event for event in read_events(tmp_path) if event.kind == "skip"]) == 4


def test_the_rule() -> None:
    """Median + factor x deviation, floors, NaN at any time; refused steps do not count."""
    rule = SpikeRule(factor=10, window=20)
    assert str(rule.judge(math.nan, 1.0)) == "the loss is NaN or inf"
    assert str(rule.judge(None, math.inf)) == "the gradient norm is NaN or inf"
    assert rule.judge(1e9, 1e9) is None, "nothing to compare with"
    for number in range(LEAST):
        rule.add(2.0 + 0.01 * (number % 2), 1.0)
    assert rule.judge(2.4, 2.9) is None
    said = str(rule.judge(2.5, 1.0))
    assert said == "the loss is 2.5, above 2.406 (median 2.005 + 10 x 0.0401 of 8 steps)"
    assert rule.judge(2.0, 3.1) is not None and rule.judge(2.0, 2.9) is None
    assert rule.judge(1.0, 0.1) is None, "falling is not a spike"


def test_the_rule_takes_over_what_was_recorded() -> None:
    records = [{"loss": 2.0, "grad_norm": 1.0}] * LEAST
    records += [{"loss": None, "grad_norm": None, "skipped": True, "refusal": "it was NaN"}] * 2
    rule = SpikeRule(factor=2, window=20)
    assert rule.take_over(records) == 2
    assert rule.judge(2.5, 1.0) is not None


def test_rollbacks_are_bounded(tmp_path: Path) -> None:
    """Not twice to the same checkpoint, not without one, not at the end; and a damaged file moves nothing."""
    note_event(tmp_path, Event(kind="rollback", iteration=9, to=6, words="a spike"))
    (tmp_path / "events.jsonl").open("a").write('{"kind": "rollback"}\n[]\n{"torn')
    events = read_events(tmp_path)
    assert passed_over(events) == {7, 8, 9}
    assert refuse_rollback(events, iteration=12, to=10, last=20) is None
    assert "a second time" in str(refuse_rollback(events, iteration=12, to=6, last=20))
    assert "no checkpoint" in str(refuse_rollback(events, iteration=5, to=None, last=20))
    assert "last iteration" in str(refuse_rollback(events, iteration=20, to=10, last=20))
    (tmp_path / "events.jsonl").write_text(
        '{"kind": "rollback", "iteration": 999999999999, "to": 1, "words": "", "at": 1.0, "details": []}\n'
    )
    assert passed_over(read_events(tmp_path)) == set()
    (tmp_path / "events.jsonl").unlink()
    assert read_events(tmp_path) == []


def test_the_page_has_all_statuses() -> None:
    from megatron_patch import torchrun
    from megatron_patch.runs.recovery import Status

    page = (REPOSITORY / "docs" / "failures.md").read_text()
    for status in Status:
        if status not in (Status.NOT_AGAIN, Status.LOST):  # of ranks: nobody who starts a run sees them
            assert f"| {status.value} | " in page and f"\n    {status.value}   " in (torchrun.__doc__ or "")
