"""Launch the real trainer on CPU processes, as torchrun does for a user, and read what it recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.distributed.checkpoint import FileSystemReader, load
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_patch.models import families
from megatron_patch.models.megatron import architecture_flags

from ..faults import warm_start
from . import warm

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "examples" / "llama3_1" / "pretrain_llama.py"
HELD = REPOSITORY / "tests" / "trainer" / "held.py"
VOCAB_SIZE = 255
SEQ_LENGTH = 64

MODEL = """
--num-layers 4 --hidden-size 64 --ffn-hidden-size 128 --num-attention-heads 4
--group-query-attention --num-query-groups 2 --swiglu --normalization RMSNorm --norm-epsilon 1e-5
--disable-bias-linear --untie-embeddings-and-output-weights --position-embedding-type rope --rotary-base 500000
--use-rope-scaling --rope-scaling-factor 8 --attention-dropout 0 --hidden-dropout 0 --init-method-std 0.02
--max-position-embeddings 64
"""
INPUT = "--seq-length 64 --tokenizer-type NullTokenizer --vocab-size 255 --make-vocab-size-divisible-by 32 "
CPU = """
--device cpu --distributed-backend gloo --use-cpu-initialization --transformer-impl local
--spec megatron_patch.backend.cpu.layers local_layer_spec --attention-backend flash --no-persist-layer-norm
--no-gradient-accumulation-fusion --no-masked-softmax-fusion --no-rope-fusion
--no-create-attention-mask-in-dataloader --num-workers 0
"""
SCHEDULE = """
--micro-batch-size 2 --global-batch-size 8 --train-iters 20 --lr 1e-3 --min-lr 1e-4 --lr-decay-style cosine
--lr-warmup-iters 2 --weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.95 --clip-grad 1.0 --seed 1234
--log-interval 5 --eval-interval 1000 --eval-iters 0 --ckpt-format torch_dist
"""


@dataclass(kw_only=True)
class Run:
    """One finished launch."""

    returncode: int
    stdout: str
    stderr: str
    output: Path
    metrics: list[dict] = field(default_factory=list)

    @classmethod
    def of(cls, command: list[str], environ: dict[str, str], output: Path, timeout: float) -> Run:
        """Run a command to its end; what it said, and what it recorded in its output folder."""
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=timeout, check=False)
        said = {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        return cls(**said, output=output, metrics=read_metrics(output))

    @property
    def losses(self) -> list[float]:
        """Training losses in order."""
        return [record["loss"] for record in self.metrics if "loss" in record]

    @property
    def flops(self) -> list[float]:
        """Of each step, over all processes."""
        processes = len(list((self.output / "logs").glob("rank_*.log")))
        steps = [record for record in self.metrics if "tflops_per_gpu" in record]
        return [step["tflops_per_gpu"] * step["step_ms"] * 1e9 * processes for step in steps]

    def log(self, rank: int = 0) -> str:
        """Everything that Megatron printed on one rank."""
        return (self.output / "logs" / f"rank_{rank}.log").read_text()


def worst(run: Run, reference: Run) -> float:
    """Largest difference of a loss over SCHEDULE's 20 steps, in nats."""
    assert len(run.losses) == len(reference.losses) == 20
    return max(abs(a - b) for a, b in zip(run.losses, reference.losses, strict=True))


OTHERS = [name for name, family in families().items() if not family.bare_names and "tiny" in family.sizes]
"""Families beside Llama: a new file in models/ is one more parameter of the tests that read this."""


def architecture(family: str) -> str:
    """Flags of a tiny model of a family, with heads that are not hidden size / heads wide.

    Every parameter is a multiple of 64: 0.19.2 saves the memory between others, in the optimizer's buffers, as it is.
    """
    sizes = {"hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4, "num_query_groups": 2}
    return " ".join(architecture_flags(replace(families()[family].sizes["tiny"], **sizes, head_dim=64))) + " "


def flags(output: Path, data: Path, extra: str) -> list[str]:
    """What a rank is told; later flags win over earlier ones, and an architecture among them stands for MODEL."""
    model = "" if "--hidden-size" in extra.split() else MODEL
    common = " ".join((model, INPUT, CPU, SCHEDULE)).split()
    return [*common, "--output-dir", str(output), "--train-data-path", str(data), *extra.split()]


def command(output: Path, data: Path, extra: str = "", *, processes: int = 1, script: Path = SCRIPT) -> list[str]:
    """The torchrun command line."""
    torchrun = [sys.executable, "-m", "megatron_patch.torchrun", "--nproc-per-node", str(processes)]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]  # port 0: any free one
    return [*torchrun, *rendezvous, str(script), *flags(output, data, extra)]


def environment() -> dict[str, str]:
    """One thread for each process: results do not depend on how busy the machine is.

    GPUs are hidden: these ranks compute on the processor, and a process that has seen a GPU cannot fork another.
    """
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | alone | {"PYTHONWARNINGS": "ignore", "PYTHONPATH": path}


def launch(
    output: Path, data: Path, extra: str = "", *, processes: int = 1, script: Path = SCRIPT, timeout: float = 300
) -> Run:
    """Train to the end, or to the error."""
    started = command(output, data, extra, processes=processes, script=script)
    return Run.of(started, environment(), output, timeout)


def launch_warm(
    output: Path, data: Path, extra: str = "", *, processes: int = 1, script: Path = SCRIPT, timeout: float = 300
) -> Run:
    """The same in ranks that need no time for their imports: see warm.py."""
    output.mkdir(parents=True, exist_ok=True)
    screen = output.parent / f"{output.name}.{time.monotonic_ns()}"
    started = flags(output, data, extra)
    status = warm.run(script, started, processes=processes, environ=environment(), screen=screen, timeout=timeout)
    said = {name: Path(f"{screen}.{ending}").read_text() for name, ending in (("stdout", "out"), ("stderr", "err"))}
    return Run(returncode=status, **said, output=output, metrics=read_metrics(output))


def launch_by_torchrun(
    output: Path, data: Path, extra: str = "", *, processes: int = 1, script: Path = SCRIPT, timeout: float = 300
) -> Run:
    """The same with what torchrun says and answers: see faults/warm_start.py."""
    started = command(output, data, extra, processes=processes, script=script)
    done = warm_start.run(started, environment(), output.parent / f"{output.name}.screen", timeout=timeout)
    said = {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    return Run(**said, output=output, metrics=read_metrics(output))


def launch_and_signal(
    output: Path, data: Path, extra: str, *, processes: int, iteration: int, number: signal.Signals
) -> Run:
    """Send a signal once `iteration` is recorded: SIGKILL to every process of the run, others to torchrun alone.

    Ranks that are to be killed have a checkpoint, and wait two iterations later: they are not done before, however late
    it comes. Those start without their imports (faults/warm_start.py).
    """
    if number == signal.SIGKILL:
        return _launch_and_kill(output, data, extra, processes=processes, iteration=iteration)
    screen = output.parent / f"{output.name}.screen"
    started = command(output, data, extra, processes=processes)
    with screen.open("w") as file:
        job = subprocess.Popen(started, env=environment(), stdout=file, stderr=file)
    try:
        while job.poll() is None and len(read_metrics(output)) < iteration:
            time.sleep(0.005)
        assert job.poll() is None, f"the run ended before iteration {iteration}:\n{screen.read_text()}"
        os.kill(job.pid, number)
        job.wait(timeout=400)
    finally:
        job.kill()
    return Run(
        returncode=job.returncode, stdout=screen.read_text(), stderr="", output=output, metrics=read_metrics(output)
    )


def _launch_and_kill(output: Path, data: Path, extra: str, *, processes: int, iteration: int) -> Run:
    screen = output.parent / f"{output.name}.screen"
    started = command(output, data, extra, processes=processes, script=HELD)
    environ = environment() | {"HOLD_AFTER": str(iteration + 2)}
    job = warm_start.STARTER.start(started, environ, screen)
    try:
        while job.poll() is None and (
            len(read_metrics(output)) < iteration or not complete_iterations(output / "checkpoints")
        ):
            time.sleep(0.005)
        assert job.poll() is None, f"the run ended before iteration {iteration}:\n{job.said()}"
        for pid in (*job.ranks(), job.pid):
            os.kill(pid, signal.SIGKILL)
        status = job.wait(400)
    finally:
        job.end()
    assert status is not None
    return Run(returncode=status, stdout=job.said(), stderr="", output=output, metrics=read_metrics(output))


def children(pid: int) -> list[int]:
    """Processes that `pid` started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def complete_iterations(checkpoints: Path) -> list[int]:
    """Iterations that can be resumed from, oldest first: what the launcher looks for."""
    folders = [path for path in checkpoints.glob("iter_*") if (path / "metadata.json").exists()]
    return sorted(int(path.name.removeprefix("iter_")) for path in folders)


def read_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a torch_dist checkpoint, weights and optimizer."""
    reader = FileSystemReader(folder)
    sizes = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in sizes.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def train(
    output: Path, data: Path, extra: str = "", *, processes: int = 1, torchrun: bool = False, script: Path = SCRIPT
) -> Run:
    """Train to the end; fail with what the trainer said.

    Args:
        torchrun: start the ranks by torchrun.
    """
    run = (launch_by_torchrun if torchrun else launch_warm)(output, data, extra, processes=processes, script=script)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    return run


def read_metrics(output: Path) -> list[dict]:
    """The lines of metrics.jsonl; none if it was never written."""
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def build_idxmap(prefix: Path, *, documents: int = 200, seed: int = 0) -> Path:
    """A `.bin` and `.idx` of documents with a pattern to learn: each token follows from the one before."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder, get_bin_path, get_idx_path

    generator = np.random.default_rng(seed)
    builder = IndexedDatasetBuilder(get_bin_path(str(prefix)), dtype=np.uint16)
    for _ in range(documents):
        length = int(generator.integers(20, 120))
        steps = generator.integers(1, 4, size=length)
        tokens = (generator.integers(VOCAB_SIZE) + np.cumsum(steps)) % (VOCAB_SIZE - 1)
        tokens[-1] = VOCAB_SIZE - 1  # end of document
        builder.add_document(tokens.astype(np.uint16), [length])
    builder.finalize(get_idx_path(str(prefix)))
    return prefix
