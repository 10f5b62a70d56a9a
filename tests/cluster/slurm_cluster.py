"""A real Slurm of two virtual nodes on this machine, with a munged of its own.

Needs root and Debian's packages slurm-wlm and munge.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

WHY_NOT = "a Slurm needs root and Debian's slurm-wlm and munge"
NODES = ("node1", "node2")


def possible() -> bool:
    """Whether Slurm's daemons are here and may be started."""
    found = (shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch"))
    return os.geteuid() == 0 and all(found)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a user of the cluster has."""

    folder: Path
    environ: dict[str, str]
    """For its commands."""

    def ask(self, *command: str) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """`scontrol show job` as a dictionary."""
        words = self.ask("scontrol", "show", "job", number, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, *states: str, seconds: float) -> dict[str, str]:
        """Poll until the job is in one of the states."""
        deadline = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < deadline, f"job {number} is {job['JobState']} after {seconds} s, not {states}"
            time.sleep(0.2)
        return job


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """A cluster, up; gone afterwards with all its jobs."""
    for name in ("state", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    facts = {"HOST": socket.gethostname().split(".")[0], "DIR": str(folder)}
    facts |= {f"PORT{index}": str(port) for index, port in enumerate(_free_ports(4))}
    text = Path(__file__).with_name("slurm.conf").read_text()
    for name, value in facts.items():
        text = text.replace(f"@{name}@", value)
    (folder / "slurm.conf").write_text(text)
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("MP_", "SLURM_", "PET_"))}
    cluster = Cluster(folder=folder, environ=ours | {"SLURM_CONF": str(folder / "slurm.conf")})
    with ExitStack() as stack:
        stack.enter_context(_daemon(cluster, "munged", *_munge(folder)))
        _wait_for(lambda: (folder / "munge.socket").exists(), "munged")
        stack.enter_context(_daemon(cluster, "slurmctld", "-D"))
        for node in NODES:
            stack.enter_context(_daemon(cluster, "slurmd", "-D", "-N", node))
        _wait_for(lambda: _idle(cluster) == len(NODES), "slurmctld with two idle nodes")
        try:
            yield cluster
        finally:
            subprocess.run(["scancel", "--user", "root"], env=cluster.environ, capture_output=True, check=False)
            time.sleep(2)


def _munge(folder: Path) -> list[str]:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return [
        "--force",
        "--foreground",
        f"--key-file={key}",
        *(f"--{name}={folder}/munge.{end}" for name, end in files.items()),
    ]


@contextmanager
def _daemon(cluster: Cluster, name: str, *arguments: str) -> Iterator[None]:
    with (cluster.folder / f"{name}_{len(list(cluster.folder.iterdir()))}.out").open("w") as file:
        process = subprocess.Popen(
            [name, *arguments], env=cluster.environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _idle(cluster: Cluster) -> int:
    done = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%T"], env=cluster.environ, capture_output=True, text=True, check=False
    )
    return done.stdout.split().count("idle")


def _wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come up"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
