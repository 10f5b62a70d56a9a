"""A run that was killed goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from megatron_patch.runs.status import read_end, state_of

from .harness import (
    REPOSITORY,
    Run,
    architecture,
    children,
    command,
    complete_iterations,
    environment,
    is_alive,
    launch,
    launch_and_signal,
    launch_warm,
    read_checkpoint,
    read_metrics,
    train,
)

DROPOUT = "--hidden-dropout 0.1 --attention-dropout 0.1"
DISTRIBUTED = "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"
RESHARDABLE = DISTRIBUTED + " --dist-ckpt-optim-fully-reshardable"
TP2PP2 = "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --sequence-parallel"
SIX = f"{RESHARDABLE} --num-layers 6"
CHUNKS = "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Et*2|t*1|t*2|t*1L"
"""As the plan cuts it on GPUs: stages of 4 and 2 layers, dealt over two chunks."""
ONE_CHUNK = "--pipeline-model-parallel-size 2 --decoder-last-pipeline-num-layers 2"
HOLDING = REPOSITORY / "tests" / "trainer" / "held_save.py"
DYING = REPOSITORY / "tests" / "trainer" / "kill_while_saving.py"


def flags(output: Path, data: Path, extra: str) -> str:
    """For a run that saves into its own folder while it trains, and validates now and then."""
    validation = f"--valid-data-path {data} --eval-interval 10 --eval-iters 2"
    return f"--save {output}/checkpoints --save-interval 5 --background-save {validation} {extra}"


def resume(output: Path, data: Path, extra: str, *, processes: int) -> tuple[Run, int]:
    """Start the run again as the launcher does: from the newest complete checkpoint."""
    step = complete_iterations(output / "checkpoints")[-1]
    source = f"--load {output}/checkpoints --ckpt-step {step}"
    run = train(output, data, f"{flags(output, data, extra)} {source}", processes=processes)
    assert f"resuming from iteration {step}" in run.stdout
    return run, step


def results(run: Run) -> list[dict]:
    """What must not depend on the kill: everything but times and memory."""
    names = ("iteration", "loss", "lr", "grad_norm", "tokens", "validation_loss")
    return [{name: record.get(name) for name in names} for record in run.metrics]


def assert_same(resumed: Run, whole: Run) -> None:
    """Losses, rates, norms, data position, and every tensor of the last checkpoint."""
    assert len(whole.losses) == 20
    assert results(resumed) == results(whole)
    expected = read_checkpoint(whole.output / "checkpoints" / "iter_0000020")
    found = read_checkpoint(resumed.output / "checkpoints" / "iter_0000020")
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("moment", ["publish", pytest.param("_replaced_when_closed", marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """SIGKILL before the checkpoint gets its name, or before the tracker is written; with dropout, so RNG counts."""
    whole = train(tmp_path / "whole", data, flags(tmp_path / "whole", data, DROPOUT))
    killed = tmp_path / "killed"
    monkeypatch.setenv("KILL_AT", moment)
    dead = launch_warm(killed, data, flags(killed, data, DROPOUT), script=DYING)
    assert dead.returncode != 0
    assert 10 <= len(dead.losses) <= 15  # written while training goes on, to the next save
    assert complete_iterations(killed / "checkpoints") == ([5] if moment == "publish" else [5, 10])
    resumed, _ = resume(killed, data, f"{DROPOUT} --keep-checkpoints 2", processes=1)
    assert_same(resumed, whole)
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == [
        *(f"iter_{step:07d}" for step in (15, 20)),
        "latest_checkpointed_iteration.txt",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("extra", [RESHARDABLE, pytest.param(f"{SIX} {CHUNKS}", id="PP2 in two chunks")])
def test_what_is_held_has_the_bits_of_its_iteration(tmp_path: Path, data: Path, extra: str) -> None:
    """RAM stands for free GPU memory: the optimizer steps before anything of it is copied, and it changes nothing."""
    whole = train(tmp_path / "whole", data, flags(tmp_path / "whole", data, extra), processes=2)
    output = tmp_path / "held"
    held = launch_warm(output, data, flags(output, data, extra), processes=2, script=HOLDING)
    assert held.returncode == 0, held.stderr
    assert held.losses == whole.losses
    for rank in range(2):
        said = re.findall(r"copied after (\d+) steps", held.log(rank))
        assert said == ["2", "2", "2", "0"]  # after the last save there is no step
        assert held.log(rank).count("GB held on the GPU") == 4
    for step in (5, 10, 15, 20):
        expected, found = (read_checkpoint(run.output / "checkpoints" / f"iter_{step:07d}") for run in (whole, held))
        assert found.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("beside", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_disk_full(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, beside: bool) -> None:
    """One rank cannot write its part of the second checkpoint: the run ends and says why, the first stays.

    Although only one is to be kept.
    """
    monkeypatch.setenv("FULL_ON", "1")
    output = tmp_path / "run"
    extra = flags(output, data, f"{RESHARDABLE} --keep-checkpoints 1").replace(
        "--background-save", "--background-save" if beside else ""
    )
    full = launch_warm(output, data, extra, processes=2, script=DYING)
    assert full.returncode != 0
    said = re.search(
        r"a checkpoint was not written: rank 1: (\S+) cannot be written: No space left on device", full.stderr
    )
    assert said and "iter_0000010/__1_" in said[1]
    assert complete_iterations(output / "checkpoints") == [5]
    assert (output / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "5"


@pytest.mark.parametrize(
    ("processes", "extra"),
    [
        pytest.param(2, DISTRIBUTED, id="DP2+DO"),
        pytest.param(2, f"--bf16 {DISTRIBUTED}", id="bf16", marks=pytest.mark.slow),
        pytest.param(4, f"{TP2PP2} {DROPOUT}", id="TP2xPP2", marks=pytest.mark.slow),
        pytest.param(2, f"{SIX} {CHUNKS}", id="PP2 in two chunks", marks=pytest.mark.slow),
        *(
            pytest.param(2, f"{architecture(name)} {layout}", id=name, marks=pytest.mark.slow)
            for name, layout in (("qwen2_5", DISTRIBUTED), ("qwen3", "--pipeline-model-parallel-size 2"))
        ),
    ],
)
def test_killed_while_training(tmp_path: Path, data: Path, processes: int, extra: str) -> None:
    """SIGKILL of every process at some moment after iteration 7."""
    whole = train(tmp_path / "whole", data, flags(tmp_path / "whole", data, extra), processes=processes)
    killed = tmp_path / "killed"
    launch_and_signal(killed, data, flags(killed, data, extra), processes=processes, iteration=8, number=signal.SIGKILL)
    resumed, step = resume(killed, data, extra, processes=processes)
    assert 5 <= step < 20
    assert_same(resumed, whole)


def test_another_layout(tmp_path: Path, data: Path) -> None:
    """What two data-parallel ranks with the distributed optimizer saved goes on in one process and in TP 2."""
    whole = train(tmp_path / "whole", data, flags(tmp_path / "whole", data, RESHARDABLE), processes=2)
    source = f"--load {tmp_path}/whole/checkpoints --ckpt-step 10"
    one = train(tmp_path / "one", data, f"{source} {RESHARDABLE}")
    assert len(one.losses) == 10
    assert max(abs(a - b) for a, b in zip(one.losses, whole.losses[10:], strict=True)) <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["--tensor-model-parallel-size 2", "--pipeline-model-parallel-size 2"])
def test_another_model_layout(tmp_path: Path, data: Path, extra: str) -> None:
    """The same, to layouts that cut the model."""
    whole = train(tmp_path / "whole", data, flags(tmp_path / "whole", data, RESHARDABLE), processes=2)
    source = f"--load {tmp_path}/whole/checkpoints --ckpt-step 10 {RESHARDABLE}"
    cut = train(tmp_path / "cut", data, f"{source} {extra}", processes=2)
    assert max(abs(a - b) for a, b in zip(cut.losses, whole.losses[10:], strict=True)) <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "processes"),
    [
        pytest.param(CHUNKS, ONE_CHUNK, 2, id="two to one"),
        pytest.param(ONE_CHUNK, CHUNKS, 2, id="one to two"),
        pytest.param(CHUNKS, "", 1, id="two to no pipeline"),
    ],
)
def test_another_number_of_chunks(tmp_path: Path, data: Path, before: str, after: str, processes: int) -> None:
    """Weights and optimizer are read in any cut, and go on to the bit: none of them adds in another order."""
    whole = train(tmp_path / "whole", data, flags(tmp_path / "whole", data, f"{SIX} {before}"), processes=2)
    source = f"--load {tmp_path}/whole/checkpoints --ckpt-step 10 {SIX}"
    cut = train(tmp_path / "cut", data, f"{source} {after}", processes=processes)
    assert cut.losses == whole.losses[10:]


OTHERS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@pytest.mark.parametrize("number", [signal.SIGTERM, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)])
def test_asked_to_stop(tmp_path: Path, data: Path, number: signal.Signals) -> None:
    """A scheduler, Ctrl-C, a closed terminal, Slurm's warning: the step is finished and saved, and `watch` is told."""
    extra = "--train-iters 100000 --save-interval 100000 --num-workers 1"  # which torchrun signals too
    stopped = launch_and_signal(
        tmp_path / "run", data, flags(tmp_path / "run", data, extra), processes=2, iteration=4, number=number
    )
    saved = complete_iterations(tmp_path / "run" / "checkpoints")
    assert saved == [len(stopped.losses)]
    assert stopped.returncode == 128 + number
    assert f"{number.name}: the ranks finish their step, save and end, within 600 s" in stopped.stdout
    assert f"stopped by {number.name} after iteration {saved[0]}" in stopped.stdout
    ended = read_end(stopped.output)
    assert ended is not None and (ended.how, ended.cause, ended.iteration) == ("stopped", number.name, saved[0])


SLOW_STOP = """
import sys
import megatron_patch.torchrun as torchrun

torchrun.GRACE = float(sys.argv[1])
sys.exit(torchrun.main(sys.argv[2:]))
"""
NEVER_ENDING_SAVE = """
import threading

from megatron_patch.backend.saving import checkpoint_fixes
from megatron_patch.trainer.entry import main

def forever(*args):
    print("FOREVER", flush=True)
    threading.Event().wait()

checkpoint_fixes.publish = forever
main()
"""


@pytest.mark.parametrize("way", ["twice", "grace"])
def test_a_save_that_does_not_end(tmp_path: Path, data: Path, way: str) -> None:
    """A second signal ends the ranks at once; so does the end of the grace."""
    output, script, log = tmp_path / "run", tmp_path / "rank.py", tmp_path / "run" / "logs" / "rank_0.log"
    script.write_text(NEVER_ENDING_SAVE)
    extra = f"--train-iters 100000 --save {output}/checkpoints --save-interval 100000"
    started = command(output, data, extra, script=script)
    words = [sys.executable, "-c", SLOW_STOP, "600" if way == "twice" else "5", *started[3:]]
    job = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while job.poll() is None and len(read_metrics(output)) < 2:
            time.sleep(0.01)
        job.send_signal(signal.SIGHUP)
        while job.poll() is None and "FOREVER" not in log.read_text():
            time.sleep(0.01)
        if way == "twice":
            job.send_signal(signal.SIGINT)
        screen, _ = job.communicate(timeout=300)
    finally:
        job.kill()
    assert job.returncode == 128 + signal.SIGHUP, screen
    assert ("did not end within 5 s: they are killed" in screen) == (way == "grace")
    assert "stopped by SIGHUP, at once: the same command goes on from the newest checkpoint" in screen
    ended = read_end(output)
    assert ended is not None and (ended.how, ended.cause) == ("stopped", "SIGHUP, at once")


LAST_SAVE_WAITS = """
import os
import time

from megatron_patch.backend.saving import checkpoint_fixes
from megatron_patch.trainer.entry import main

def publish_later(*args):
    print("SAVING", flush=True)
    while not os.path.exists(os.environ["GO"]):
        time.sleep(0.02)
    publish(*args)

publish, checkpoint_fixes.publish = checkpoint_fixes.publish, publish_later
main()
"""


def test_ignored_signals_stay_ignored(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `nohup` wants it: the run goes on to its end, which waits here until all have had the signal."""
    script, log, go = tmp_path / "rank.py", tmp_path / "run" / "logs" / "rank_0.log", tmp_path / "go"
    script.write_text(LAST_SAVE_WAITS)
    monkeypatch.setenv("GO", str(go))
    extra = f"--train-iters 6 --save {tmp_path}/run/checkpoints --save-interval 100"
    started = ["nohup", *command(tmp_path / "run", data, extra, script=script)]
    job = subprocess.Popen(
        started, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        while job.poll() is None and not (log.exists() and "SAVING" in log.read_text()):
            time.sleep(0.01)
        for pid in (*children(job.pid), job.pid):
            os.kill(pid, signal.SIGHUP)
        go.touch()
        screen, _ = job.communicate(timeout=300)
    finally:
        job.kill()
    assert job.returncode == 0, screen
    assert complete_iterations(tmp_path / "run" / "checkpoints") == [6]
    ended = read_end(tmp_path / "run")
    assert ended is not None and (ended.how, ended.iteration) == ("finished", 6)


def test_launcher_killed(tmp_path: Path, data: Path) -> None:
    """While a run writes into a folder no other may; killed without its ranks, torchrun takes them along: they save."""
    output = tmp_path / "run"
    extra = flags(output, data, "--train-iters 100000 --save-interval 100000")
    job = subprocess.Popen(command(output, data, extra, processes=2), env=environment(), stderr=subprocess.DEVNULL)
    try:
        while job.poll() is None and len(read_metrics(output)) < 3:
            time.sleep(0.01)
        ranks = children(job.pid)
        other = launch(output, data, extra)
        assert other.returncode != 0 and f"another run is writing into {output}" in other.stderr
        assert state_of(output)[0] == "running"
    finally:
        job.kill()
    while any(map(is_alive, ranks)):  # the test's time-out ends it
        time.sleep(0.05)
    while state_of(output)[0] != "free":  # threads of theirs may still be ending
        time.sleep(0.05)
    done = [record["iteration"] for record in read_metrics(output) if "loss" in record]
    assert complete_iterations(output / "checkpoints") == [done[-1]]


def test_a_run_with_validation_is_extended(tmp_path: Path, data: Path) -> None:
    """Under other validation too: more seldom and less, none and back. It read 96 samples at first."""
    output = tmp_path / "run"

    def go_on(iterations: int, validation: str) -> list[int]:
        before = read_metrics(output)
        saved = complete_iterations(output / "checkpoints")
        start = f"--load {output}/checkpoints --ckpt-step {saved[-1]}" if saved else ""
        where = "" if "--eval-iters 0" in validation else f"--valid-data-path {data}"
        saving = f"--save {output}/checkpoints --save-interval 100 --override-opt_param-scheduler"
        run = train(output, data, f"--train-iters {iterations} {saving} {where} {validation} {start}")
        assert run.metrics[: len(before)] == before and len(run.losses) == iterations
        return [record["iteration"] for record in run.metrics[len(before) :] if "validation_loss" in record]

    assert go_on(4, "--eval-interval 1 --eval-iters 3") == [1, 2, 3, 4]
    assert go_on(8, "--eval-interval 4 --eval-iters 1") == [8]
    assert go_on(9, "--eval-iters 0") == []
    assert go_on(11, "--eval-interval 10 --eval-iters 2") == [10, 11]


def test_finished_run_has_nothing_to_do(first: Run, data: Path) -> None:
    """Started again at its last iteration, a run says so and touches nothing."""
    before = (first.output / "metrics.jsonl").read_bytes()
    again = train(first.output, data, f"--train-iters 3 --load {first.output}/checkpoints --ckpt-step 3")
    assert "finished: all 3 iterations are done" in again.stdout
    assert (first.output / "metrics.jsonl").read_bytes() == before
