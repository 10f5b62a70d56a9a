"""ENV=slurm against a real Slurm: script, submission, two nodes, the early warning, requeue, and the same bits."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import slurm_cluster
from .machines import REPOSITORY, SCRIPT, losses
from .slurm_cluster import Cluster, slurm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not slurm_cluster.possible():
        pytest.skip(slurm_cluster.WHY_NOT)
    with slurm(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running


@pytest.fixture
def submit(cluster: Cluster, world: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The driver on the login node."""

    def run(command: list[str], cwd: Path = world, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {"MP_TOKENIZER_PATH": str(world / "tokenizer"), "MP_SLURM_PARTITION": "debug", "MP_DEVICE": "cpu"}
        environ |= {"MP_NPROC": "1", "MP_SLURM_NODES": "2", "MP_SLURM_TIME": "20", "PYTHON": sys.executable}
        environ |= {"OMP_NUM_THREADS": "1", "HF_TOKEN": "hf_s3cret"} | variables
        environ = {name: value for name, value in environ.items() if value}
        return subprocess.run(
            command, env=cluster.environ | environ, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
        )

    return run


def job_of(done: subprocess.CompletedProcess[str]) -> str:
    """The number in `job         7, script ...`."""
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("job "))
    return line.split()[1].rstrip(",")


def log_of(output: Path, job: str) -> str:
    path = output / "slurm" / f"{job}.log"
    return path.read_text() if path.exists() else ""


def wait_for_losses(cluster: Cluster, output: Path, job: str, count: int) -> None:
    deadline = time.monotonic() + 240
    while len(losses(output)) < count:
        state = cluster.job(job)["JobState"]
        said = f"{len(losses(output))} losses; job is {state}\n{log_of(output, job)}"
        assert time.monotonic() < deadline, said
        assert state in ("PENDING", "CONFIGURING", "RUNNING"), said
        time.sleep(0.1)


def test_the_script_is_what_sbatch_takes(
    cluster: Cluster,
    submit: Callable[..., subprocess.CompletedProcess[str]],
    values: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    """Slurm itself reads the script of the dry run; nothing was submitted, and no token stands in it."""
    typed = values(tmp_path / "out", {1: "slurm"})
    done = submit(["sh", str(SCRIPT), *typed, "--dry-run"], MP_SLURM_ACCOUNT="team", MP_SLURM_SIGNAL_SECONDS="120")
    assert done.returncode == 0, done.stderr
    script = done.stdout.split("slurm/job.sh\n")[1]
    for line in ("--nodes=2", "--account=team", "--partition=debug", "--time=20", "--requeue", "--signal=B:USR1@120"):
        assert f"#SBATCH {line}\n" in script
    assert "hf_s3cret" not in done.stdout + done.stderr
    (tmp_path / "job.sh").write_text(script)
    cluster.ask("sbatch", "--test-only", str(tmp_path / "job.sh"))
    assert not (tmp_path / "out").exists()
    assert cluster.ask("squeue", "-h") == ""


def test_refused_by_sbatch(
    submit: Callable[..., subprocess.CompletedProcess[str]], values: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Slurm's own words, and where the script is."""
    done = submit(["sh", str(SCRIPT), *values(tmp_path / "out", {1: "slurm"})], MP_SLURM_PARTITION="absent")
    assert done.returncode == 1
    assert "invalid partition specified: absent" in done.stderr
    assert str(tmp_path / "out" / "slurm" / "job.sh") in done.stderr


def test_a_container_without_pyxis(
    submit: Callable[..., subprocess.CompletedProcess[str]], values: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Asked of srun itself, before anything is written."""
    done = submit(
        ["sh", str(SCRIPT), *values(tmp_path / "out", {1: "slurm"})], MP_SLURM_IMAGE="nvcr.io/nvidia/nemo:dev"
    )
    assert done.returncode == 2
    assert "MP_SLURM_IMAGE: srun has no --container-image here: the pyxis plug-in is not installed" in done.stderr
    assert not (tmp_path / "out").exists()


def test_warned_saved_requeued_and_bitwise_the_same(
    cluster: Cluster,
    submit: Callable[..., subprocess.CompletedProcess[str]],
    values: Callable[..., list[str]],
    alone: list[float],
    tmp_path: Path,
) -> None:
    """USR1 as --signal=B:USR1@N sends it, when this test knows that the run is in its middle."""
    output = tmp_path / "out"
    job = job_of(submit(["sh", str(SCRIPT), *values(output, {1: "slurm", 19: "1000"})]))
    wait_for_losses(cluster, output, job, 7)
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    ended = cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", seconds=400)
    log = log_of(output, job)
    assert ended["JobState"] == "COMPLETED", log
    assert ended["Restarts"] == "1"
    assert "restart 0: nodes node[1-2], rendezvous 127.0.0.1:" in log
    assert "requeueing" in log
    assert "restart 1: nodes node[1-2]" in log
    assert "2 machines agree on plan, code and packages; they talk over lo" in log
    assert losses(output) == alone
    assert "hf_s3cret" not in log + (output / "slurm" / "job.sh").read_text()


def test_by_named_flags(
    cluster: Cluster, submit: Callable[..., subprocess.CompletedProcess[str]], world: Path, tmp_path: Path
) -> None:
    """`pretrain_llm.py --executor slurm`: the same way, and cancelled it ends with a checkpoint."""
    script = [sys.executable, str(REPOSITORY / "examples" / "llama3_1" / "pretrain_llm.py"), "--executor", "slurm"]
    (tmp_path / "data").mkdir()
    for suffix in (".bin", ".idx"):
        (tmp_path / "data" / f"text{suffix}").symlink_to(world / f"text{suffix}")
    flags = f"-N 2 -p debug --time 20 -M tiny --hf_model_id {world}/tokenizer --dataset_path {tmp_path}/data -g 8 -s 64"
    flags += " --max_steps 100000 --precision fp32 -E named"
    done = submit([*script, *flags.split()], tmp_path, MP_SLURM_PARTITION="", MP_SLURM_TIME="", MP_SLURM_NODES="")
    job, output = job_of(done), tmp_path / "experiments" / "named"
    assert "no container: srun has no --container-image" in done.stdout
    wait_for_losses(cluster, output, job, 3)
    cluster.ask("scancel", job)
    cluster.wait(job, "CANCELLED", seconds=120)
    assert any((output / "checkpoints").glob("iter_*"))
    assert "SIGTERM: the ranks finish their step, save, and end" in log_of(output, job)
