"""ENV=slurm: a batch script, its submission, and what runs in it.

One command has three places. Typed on a login node it writes OUTPUT_BASEPATH/slurm/job.sh and submits it. In the job's
batch script the same command starts itself on every node by srun, passes Slurm's early warning on, and requeues the
job. Under srun it trains.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_patch.common.files import write_text
from megatron_patch.common.messages import Message, localized, say
from megatron_patch.launch.cluster.place import SlurmError, ask, first_address, has_pyxis, slurm_port
from megatron_patch.launch.command import REPOSITORY, SECRETS, script_of
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.variables import Variables
from megatron_patch.runs import status as run_status
from megatron_patch.runs.folder import SLURM


def batch_script(plan: Plan, values: Sequence[str], environ: Mapping[str, str]) -> str:
    """The text of job.sh: what Slurm is asked for, the MP_ variables, the 25 values."""
    lines = ["#!/bin/sh", "# Written by the driver; `sbatch` this file to submit it again.", ""]
    lines += [f"#SBATCH {option}" for option in _options(plan)]
    typed = {name: value for name, value in sorted(environ.items()) if name.startswith("MP_") and value}
    lines += ["", *(f"export {name}={shlex.quote(value)}" for name, value in typed.items())]
    words = " ".join(map(shlex.quote, values))
    return "\n".join([*lines, f"exec sh {shlex.quote(str(script_of(plan.model)))} {words}", ""])


def _options(plan: Plan) -> list[str]:
    """For sbatch. A node belongs to one run: its ranks want all cores, GPUs and memory."""
    variables, layout = plan.variables, plan.layout
    options = [
        f"--job-name={_quoted(Path(plan.output).name)}",
        f"--nodes={layout.nodes}",
        "--ntasks-per-node=1",
        "--exclusive",
        "--mem=0",
    ]
    options += [f"--account={_quoted(variables.slurm_account)}"] if variables.slurm_account else []
    options += [f"--partition={_quoted(variables.slurm_partition)}"] if variables.slurm_partition else []
    options += [f"--gpus-per-node={layout.processes}"] if plan.device == "cuda" else []
    options += [f"--time={_quoted(variables.slurm_time)}"] if variables.slurm_time else []
    options += [
        "--requeue",
        f"--signal=B:USR1@{variables.slurm_signal_seconds}",  # to the batch script, which passes it on
        "--open-mode=append",
        f"--output={_quoted(plan.output.replace('%', '%%') + f'/{SLURM}/%j.log')}",
        f"--chdir={_quoted(str(Path.cwd()))}",
    ]
    return options + [_quoted(word) for word in words_of(variables.slurm_args)]


def words_of(slurm_args: str | None) -> list[str]:
    """MP_SLURM_ARGS as words.

    Raises:
        ValueError: a quotation mark is never closed.
    """
    return shlex.split(slurm_args or "")


PLAIN = re.compile(r"[\w@%+=:,./-]*")
UNQUOTABLE = re.compile(r"[\"\\\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _quoted(value: str) -> str:
    """As sbatch reads its own lines: in double quotes white space, apostrophes and # are ordinary characters."""
    return value if PLAIN.fullmatch(value) else f'"{value}"'


def problems_of(plan: Plan, *, asks: bool) -> list[Problem]:
    """What a container cannot mount, or this cluster cannot do.

    Args:
        asks: whether Slurm is here to be asked; a dry run works without.
    """
    image, found = container_image(plan.variables), []
    if image:
        folders = [str(folder) for folder in _folders(plan) if re.search("[:,]", str(folder))]
        found += [Problem("slurm-mount", "MP_SLURM_IMAGE", folder=folder) for folder in folders]
    if asks and shutil.which("sbatch") is None:
        return [*found, Problem("slurm-not-installed", "ENV", command="sbatch", expected=Message("expect-other-env"))]
    try:
        if asks and image and not has_pyxis():
            found.append(Problem("slurm-no-pyxis", "MP_SLURM_IMAGE"))
    except SlurmError as error:
        found += Problem.of(error, "ENV", expected=Message("expect-other-env"))
    return found


def container_image(variables: Variables) -> str | None:
    """MP_SLURM_IMAGE; `none` is none."""
    return None if variables.slurm_image in (None, "none") else variables.slurm_image


def submit(plan: Plan, values: Sequence[str], environ: Mapping[str, str]) -> int:
    """Write the batch script and hand it to sbatch.

    Returns:
        0; 1 where sbatch refuses, whose words are shown.
    """
    import subprocess

    folder = Path(plan.output) / SLURM
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.sh"
    write_text(path, batch_script(plan, values, environ), errors="surrogateescape")
    inherited = {name: value for name, value in environ.items() if name not in SECRETS}
    done = subprocess.run(
        ["sbatch", "--parsable", str(path)], env=inherited, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        print(localized("slurm-refuses", said=said, path=path), file=sys.stderr)
        return 1
    job = done.stdout.strip().split(";")[0]
    say("slurm-job", job=job, path=path)
    say("slurm-follow", job=job, log=shlex.quote(f"{folder}/{job}.log"))
    say("slurm-follow-watch", folder=shlex.quote(plan.output))
    return 0


def lead(plan: Plan, values: Sequence[str], environ: Mapping[str, str]) -> int:
    """The batch script's own process: start the command on every node, and requeue the job when its time is up.

    Returns:
        srun's status.
    """
    import subprocess

    try:
        address = first_address(environ["SLURM_JOB_NODELIST"])
    except (SlurmError, KeyError) as error:
        print(localized("slurm-no-node", error=error), file=sys.stderr)
        return 1
    job, restarts = environ["SLURM_JOB_ID"], environ.get("SLURM_RESTART_COUNT", "0")
    port = environ.get("MASTER_PORT") or slurm_port(job)
    nodes, where = environ["SLURM_JOB_NODELIST"], f"{address}:{port}"
    say("slurm-begins", job=job, restarts=restarts, nodes=nodes, where=where)
    ours = {**environ, "MASTER_ADDR": environ.get("MASTER_ADDR") or address, "MASTER_PORT": str(port)}
    asked: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        step.send_signal(number)

    numbers = (signal.SIGUSR1, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # what comes before there is a step is passed on to it
    try:
        step = subprocess.Popen(
            [*srun(plan, environ), "sh", str(script_of(plan.model)), *values],
            env=ours,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers),
        )
    except FileNotFoundError:
        missing = Message("slurm-not-installed", command="srun")
        print(localized("slurm-no-srun", error=missing), file=sys.stderr)
        return 1
    for number in numbers:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    status = step.wait()
    if signal.SIGUSR1 in asked and not _has_finished(plan):
        return _requeue(job, status)
    return status if status >= 0 else 128 - status


def _has_finished(plan: Plan) -> bool:
    """Whether all iterations were done when the time was almost up."""
    ended = run_status.read_end(Path(plan.output))
    return ended is not None and ended.how == "finished"


def srun(plan: Plan, environ: Mapping[str, str]) -> list[str]:
    """One task on each node, with all cores of it (srun would bind it to a single one), in the container if any."""
    cores = [part.split("(")[0] for part in environ.get("SLURM_JOB_CPUS_PER_NODE", "").split(",") if part]
    command = [
        "srun",
        "--kill-on-bad-exit=1",
        "--ntasks-per-node=1",
        f"--nodes={environ.get('SLURM_JOB_NUM_NODES', '1')}",
    ]
    command += [f"--cpus-per-task={min(map(int, cores))}"] if cores else []
    image = container_image(plan.variables)
    if image:
        mounts = ",".join(f"{folder}:{folder}" for folder in _folders(plan))
        command += [f"--container-image={image}", f"--container-mounts={mounts}", f"--container-workdir={Path.cwd()}"]
    return command


def _folders(plan: Plan) -> list[Path]:
    """What the run reads and writes, at the same paths in the container; none inside of another."""
    data = (*plan.train_data, *(plan.valid_data or ()))
    found = {
        REPOSITORY,
        Path.cwd(),
        Path(plan.output),
        Path(plan.tokenizer.path),
        *(Path(one.path).parent for one in data),
    }
    found |= {Path(plan.weights.path)} if plan.weights.path else set()
    return sorted(one for one in found if not any(other in one.parents for other in found))


def _requeue(job: str, status: int) -> int:
    """Slurm said that the time is almost up and the run has saved: go on in another allocation."""
    say("slurm-requeues", job=job, status=status)
    try:
        ask("scontrol", "requeue", job)
    except SlurmError as error:
        print(localized("slurm-not-requeued", job=job, error=error), file=sys.stderr)
        return 1
    return 0
