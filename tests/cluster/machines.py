"""Two machines on one: network namespaces with a host name and an address each, joined by one cable.

Needs root and iproute2. Addresses live inside the namespaces, so runs side by side do not meet.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "examples" / "llama3_1" / "run_mcore_llama3_1.sh"
WHY_NOT = "network namespaces need root and iproute2"


def possible() -> bool:
    """Whether this machine lets us make namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    name = f"mp{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.returncode == 0


@dataclass(kw_only=True)
class Started:
    """One launcher that was started on a machine."""

    process: subprocess.Popen[bytes]
    screen: Path

    def wait(self, seconds: float) -> int:
        """Its exit status; fails with its screen if it is still there."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.said()}") from None

    def said(self) -> str:
        """Everything on its screen."""
        return self.screen.read_text(errors="replace")


@dataclass(kw_only=True)
class Machine:
    """One namespace."""

    name: str
    """Host name, and name of the namespace."""
    address: str
    folder: Path
    """For screens."""
    started: list[Started] = field(default_factory=list)

    def start(
        self,
        values: Sequence[str],
        environ: Mapping[str, str],
        *,
        before: str = "",
        repository: Path = REPOSITORY,
    ) -> Started:
        """Run the driver here.

        Args:
            before: shell commands of root's to run first, in a mount namespace of their own.
            repository: the copy of the project to run.
        """
        script = repository / SCRIPT.relative_to(REPOSITORY)
        inner = f'hostname {self.name}; {before} exec sh {script} "$@"'
        command = ["ip", "netns", "exec", self.name, "unshare", "-u", "-m", "sh", "-c", inner, "sh", *values]
        screen = self.folder / f"{self.name}_{len(self.started)}.screen"
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("MP_", "SLURM_", "PET_"))}
        ours |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environ}
        with screen.open("w") as file:
            process = subprocess.Popen(command, env=ours, stdout=file, stderr=file, start_new_session=True)
        self.started.append(Started(process=process, screen=screen))
        return self.started[-1]

    def kill_everything(self) -> None:
        """End every process of this machine at once, as a power cut would."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        for pid in map(int, listed.stdout.split()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def unplug(self) -> None:
        """Pull the cable."""
        subprocess.run(["ip", "-n", self.name, "link", "set", "eth0", "down"], check=True)


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a cable between them, gone afterwards with all that runs on them."""
    names = [f"mp{os.getpid()}x{time.monotonic_ns() % 10**6}n{number}" for number in (1, 2)]
    machines = [Machine(name=name, address=f"10.77.0.{number}", folder=folder) for number, name in enumerate(names, 1)]
    try:
        for machine in machines:
            subprocess.run(["ip", "netns", "add", machine.name], check=True)
            subprocess.run(["ip", "-n", machine.name, "link", "set", "lo", "up"], check=True)
            _write_names(machine, machines)
        cable = f"ip link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}"
        subprocess.run(cable.split(), check=True)
        for machine in machines:
            subprocess.run(
                ["ip", "-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth0"], check=True
            )
            subprocess.run(["ip", "-n", machine.name, "link", "set", "eth0", "up"], check=True)
        yield machines[0], machines[1]
    finally:
        for machine in machines:
            machine.kill_everything()
            subprocess.run(["ip", "netns", "del", machine.name], check=False)
            shutil.rmtree(f"/etc/netns/{machine.name}", ignore_errors=True)


def _write_names(machine: Machine, machines: Sequence[Machine]) -> None:
    """No name server; a machine's own name is 127.0.1.1, as Debian installs it: gloo must not fall for it."""
    etc = Path("/etc/netns") / machine.name
    etc.mkdir(parents=True)
    own = f"127.0.0.1 localhost\n127.0.1.1 {machine.name}\n"
    others = "".join(f"{one.address} {one.name}\n" for one in machines if one is not machine)
    (etc / "hosts").write_text(own + others)
    (etc / "resolv.conf").write_text("")


def place(rank: int, master: str, *, nodes: int = 2, port: int = 29511, **more: str) -> dict[str, str]:
    """The environment of one pod of a PyTorchJob, one CPU process each."""
    cluster = {"WORLD_SIZE": str(nodes), "RANK": str(rank), "MASTER_ADDR": master, "MASTER_PORT": str(port)}
    return cluster | {"MP_NPROC": "1", "MP_DEVICE": "cpu", "MP_NODE_TIMEOUT_SECONDS": "30"} | more


def losses(output: Path) -> list[float]:
    """Training losses so far, at full precision."""
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = (json.loads(line) for line in lines if line.endswith("\n"))
    return [record["loss"] for record in records if "loss" in record]


def wait_for(condition: object, seconds: float, what: str, *started: Started) -> None:
    """Poll until `condition()` is true."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        screens = "\n".join(one.said() for one in started)
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s:\n{screens}"
        time.sleep(0.05)
