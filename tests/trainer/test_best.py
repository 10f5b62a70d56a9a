"""MP_KEEP_BEST, MP_EARLY_STOP_PATIENCE and MP_SAVE_OPTIMIZER: what is kept, when a run ends, what can go on."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

from megatron_patch.launch.driver import make_plan
from megatron_patch.runs.validations import Validations, replay

from .driver import kill_all, until
from .harness import read_metrics
from .test_exports import command, drive, surroundings, world  # noqa: F401  # fixture

VALIDATED = {"MP_EVAL_INTERVAL": "2", "MP_EVAL_ITERS": "1"}


def losses(output: Path) -> dict[int, float]:
    return {r["iteration"]: r["validation_loss"] for r in read_metrics(output) if "validation_loss" in r}


def checkpoints(output: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (output / "checkpoints").glob("iter_*"))


def test_the_state_follows_from_the_losses() -> None:
    found = Validations(patience=2)
    for iteration, loss in ((1, 3.0), (2, 2.0), (3, math.nan), (4, 1.5), (5, 1.5)):
        found.add(iteration, loss, saved=iteration % 2 == 0)
        assert not found.stops
    assert (found.best_iteration, found.lowest, found.without) == (4, 1.5, 1)
    found.add(6, 1.6, saved=True)
    assert found.stops and found.best_iteration == 4
    records = [{"iteration": n, "validation_loss": x} for n, x in ((1, 3.0), (2, 2.0), (3, None), (4, 1.5), (5, 1.5))]
    again = replay([*records, {"iteration": 6, "loss": 0.0}], patience=2, saves=2, last=6)
    again.add(6, 1.6, saved=True)
    assert again == found


@pytest.fixture(scope="module")
def best(world: Path) -> Path:  # noqa: F811
    mp = VALIDATED | {"MP_KEEP_BEST": "1", "MP_KEEP_CHECKPOINTS": "1", "MP_EXPORT_HF": "every"}
    done = drive(world, world / "best", mp, steps=12, save=2, valid=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "best checkpoint: iter_" in done.stdout
    return world / "best"


def test_the_best_stays_beside_the_newest(best: Path) -> None:
    found = losses(best)
    lowest = min(found, key=lambda iteration: found[iteration])
    assert lowest not in (10, 12), "the newest is the best, so nothing was kept"
    told = json.loads((best / "best.json").read_text())
    assert told["iteration"] == lowest and told["validation_loss"] == found[lowest]
    assert told["checkpoint"] == f"checkpoints/iter_{lowest:07d}"
    assert checkpoints(best) == [lowest, 12]
    assert sorted(int(path.name[5:]) for path in (best / "exports").iterdir()) == [lowest, 12]


def stopped(world: Path, output: Path, patience: int = 2, **more: str) -> subprocess.CompletedProcess[str]:  # noqa: F811
    mp = VALIDATED | {"MP_EARLY_STOP_PATIENCE": str(patience)} | more
    return drive(world, output, mp, steps=60, save=4, valid=True)


@pytest.fixture(scope="module")
def early(world: Path) -> Path:  # noqa: F811
    done = stopped(world, world / "early", MP_EXPORT_HF="1")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "ended after iteration" in done.stdout and "no improvement in 2 validations" in done.stdout
    return world / "early"


def expected_end(found: dict[int, float], patience: int) -> int:
    """By the definition, over all that was validated."""
    for iteration in found:
        recent = [n for n in found if n <= iteration][-patience:]
        before = [found[n] for n in found if n < recent[0]]
        if len(recent) == patience and before and min(found[n] for n in recent) >= min(before):
            return iteration
    raise AssertionError(f"does not end: {found}")


def test_it_ends_with_a_checkpoint_and_an_export(early: Path) -> None:
    found = losses(early)
    last = max(record["iteration"] for record in read_metrics(early))
    assert last == expected_end(found, 2) < 60
    assert checkpoints(early)[-1] == last and (early / "hf" / "config.json").is_file()
    assert json.loads((early / "hf" / "manifest.json").read_text())["source"] == f"iter_{last:07d}"
    assert json.loads((early / "ended.json").read_text())["how"] == "finished"


def test_the_same_command_again_has_nothing_to_do(world: Path, early: Path) -> None:  # noqa: F811
    before = (early / "metrics.jsonl").read_text()
    done = stopped(world, early, MP_EXPORT_HF="1")
    assert done.returncode == 0 and "ended early after iteration" in done.stdout
    assert (early / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_killed_and_resumed_it_ends_at_the_same_iteration(world: Path, early: Path, tmp_path: Path) -> None:  # noqa: F811
    """The count of validations without improvement goes on from metrics.jsonl, not from zero."""
    output = tmp_path / "run"
    first = checkpoints(early)[0]
    assert first < expected_end(losses(early), 2)
    environ = surroundings(world, VALIDATED | {"MP_EARLY_STOP_PATIENCE": "2"})
    started = command(world, output, steps=60, save=4, valid=True)
    with (tmp_path / "screen").open("w") as screen:
        job = subprocess.Popen(started, env=environ, stdout=screen, stderr=screen, text=True)
        try:
            until(lambda: (output / "checkpoints" / f"iter_{first:07d}").is_dir(), job)
        finally:
            kill_all(job.pid)
            job.wait()
    assert stopped(world, output).returncode == 0
    kept = ("iteration", "loss", "validation_loss")
    one, other = ([[r.get(k) for k in kept] for r in read_metrics(folder)] for folder in (early, output))
    assert one == other


@pytest.mark.slow
def test_more_patience_goes_on(world: Path, early: Path, tmp_path: Path) -> None:  # noqa: F811
    output = tmp_path / "run"
    assert stopped(world, output).returncode == 0
    ended = checkpoints(output)[-1]
    assert stopped(world, output, patience=4).returncode == 0
    assert checkpoints(output)[-1] == expected_end(losses(output), 4) > ended


def test_weights_alone_are_small_and_cannot_be_resumed(world: Path, tmp_path: Path) -> None:  # noqa: F811
    output = tmp_path / "run"
    done = drive(world, output, {"MP_SAVE_OPTIMIZER": "false"}, steps=6)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    weights = sum(file.stat().st_size for file in (world / "hf").glob("*.safetensors"))
    stored = sum(file.stat().st_size for file in (output / "checkpoints" / "iter_0000006").glob("*.distcp"))
    assert weights < stored < 1.6 * weights  # beside weights the fp8 state of each module, and the schedule
    assert drive(world, output, {"MP_SAVE_OPTIMIZER": "false"}, steps=6).returncode == 0, "it is finished"
    again = drive(world, output, {}, steps=12)
    assert again.returncode == 2 and "[checkpoint-weights-only]" in again.stderr


@pytest.mark.slow
def test_a_run_that_starts_from_weights_alone(world: Path, tmp_path: Path) -> None:  # noqa: F811
    """As from a checkpoint with its optimizer, which a new run does not read."""
    first = {}
    for name, mp in (("alone", {"MP_SAVE_OPTIMIZER": "false"}), ("whole", {})):
        assert drive(world, tmp_path / name, mp, steps=6).returncode == 0
        started = command(world, tmp_path / f"{name}-next", steps=3)
        started[started.index(str(world / "hf"))] = str(tmp_path / name)
        environ = surroundings(world, {})
        done = subprocess.run(started, env=environ, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        first[name] = [record["loss"] for record in read_metrics(tmp_path / f"{name}-next") if "loss" in record]
    assert first["alone"] == first["whole"]


@pytest.mark.parametrize(
    ("mp", "valid", "code", "name"),
    [
        ({"MP_KEEP_BEST": "1"}, False, "best-without-validation", "MP_KEEP_BEST"),
        ({"MP_EARLY_STOP_PATIENCE": "3"}, False, "best-without-validation", "MP_EARLY_STOP_PATIENCE"),
        ({"MP_KEEP_BEST": "1", "MP_EVAL_ITERS": "0"}, True, "best-without-validation", "MP_KEEP_BEST"),
        ({"MP_KEEP_BEST": "1", "MP_EVAL_INTERVAL": "2"}, True, "best-interval", "MP_EVAL_INTERVAL"),
        ({"MP_EARLY_STOP_PATIENCE": "0"}, True, "out-of-range", "MP_EARLY_STOP_PATIENCE"),
        ({"MP_SAVE_OPTIMIZER": "0", "MP_MAX_RESTARTS": "2"}, True, "weights-only-restarts", "MP_SAVE_OPTIMIZER"),
    ],
)
def test_what_best_and_early_stop_cannot_do_is_refused_by_code(
    world: Path,  # noqa: F811
    tmp_path: Path,
    mp: dict[str, str],
    valid: bool,
    code: str,
    name: str,
) -> None:
    values = command(world, tmp_path / "run", valid=valid)[2:]
    environ = {"MP_TOKENIZER_PATH": str(world / "tokenizer"), "MP_DEVICE": "cpu", "HOME": "/", **mp}
    plan, _, problems = make_plan(values, environ, dry_run=True)
    assert plan is None
    assert (code, name) in [(problem.code, problem.names[0]) for problem in problems]


def test_every_checkpoint_is_validated_by_default(world: Path, tmp_path: Path) -> None:  # noqa: F811
    values = command(world, tmp_path / "run", steps=100, save=6, valid=True)[2:]
    environ = {"MP_TOKENIZER_PATH": str(world / "tokenizer"), "MP_DEVICE": "cpu", "HOME": "/"}
    plain, best = (make_plan(values, environ | mp, dry_run=True)[0] for mp in ({}, {"MP_KEEP_BEST": "1"}))
    assert plain and best and plain.schedule.eval_interval == 10 and best.schedule.eval_interval == 6
    alone = make_plan(values, environ | {"MP_SAVE_OPTIMIZER": "false"}, dry_run=True)[0]
    assert alone and alone.checkpoint_bytes * 3 == plain.checkpoint_bytes
