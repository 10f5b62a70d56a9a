"""The command that a start becomes: torchrun, and the environment of the ranks."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_patch.launch.argv import megatron_argv, offloads_modules
from megatron_patch.launch.cuda_graphs import OWN_FLAGS
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.plan import Plan
from megatron_patch.models import ModelConfig, family_of

REPOSITORY = Path(__file__).resolve().parents[2]
TORCHRUN = "megatron_patch.torchrun"
ENTRY = REPOSITORY / "examples" / "llama3_1" / "pretrain_llama.py"
if not ENTRY.is_file():  # installed as a package: the examples stayed behind
    ENTRY = REPOSITORY / "megatron_patch" / "trainer" / "__main__.py"

DROPPED = ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE")
"""Variables that would contradict the plan: Megatron sets the first three from --attention-backend and asserts on
others, the last makes torchrun choose a port that somebody else may take first. PET_* (torchrun's own) too."""
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables that no rank needs: tokenizers come from folders."""


def script_of(model: ModelConfig) -> Path:
    """The script of a model's family: what a person types, and what a cluster's jobs start again."""
    return REPOSITORY / family_of(model).driver


def words_before_values(script: Path) -> list[str]:
    """What a person types before the 25 values: a wheel has no script."""
    return ["sh", str(script)] if (REPOSITORY / script).is_file() else ["megatron-patch", "train"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to become: its arguments, and what changes in its environment."""

    argv: tuple[str, ...]
    set: Mapping[str, str]
    unset: tuple[str, ...]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment of the new process, which is about to start."""
        return {name: value for name, value in environ.items() if name not in self.unset} | dict(self.set) | started()

    def shell(self) -> str:
        """As it can be pasted into a shell: one flag a line."""
        words = ["env", *(word for name in self.unset for word in ("-u", name))]
        words += [f"{name}={value}" for name, value in self.set.items()]
        lines = [" ".join(map(shlex.quote, words))]
        for word in self.argv:
            if not lines[1:] or (re.match(r"--?[a-z]", word) and word != "-m") or word == str(ENTRY):
                lines.append(shlex.quote(word))
            else:
                lines[-1] += f" {shlex.quote(word)}"
        return " \\\n    ".join(lines)


def build_command(plan: Plan, environment: Environment) -> Command:
    """torchrun over the ranks of this machine."""
    argv = (sys.executable, "-m", TORCHRUN, *rendezvous(plan), str(ENTRY), *megatron_argv(plan))
    unset = sorted(name for name in environment.inherited if name in (*DROPPED, *SECRETS) or name.startswith("PET_"))
    return Command(argv=argv, set=rank_variables(plan, environment), unset=tuple(unset))


def rendezvous(plan: Plan) -> list[str]:
    """How the ranks find each other.

    One machine: torchrun's own store on a port that the system picks while it binds, so that no two runs collide.
    """
    processes = ["--nproc-per-node", str(plan.layout.processes)]
    if plan.cluster is not None:
        master = ["--master-addr", plan.cluster.master_addr, "--master-port", str(plan.cluster.master_port)]
        place = ["--nnodes", str(plan.cluster.nodes), "--node-rank", str(plan.cluster.node_rank)]
        return [*place, *processes, *master]
    if plan.variables.master_port is not None:
        return [*processes, "--master-addr", "127.0.0.1", "--master-port", str(plan.variables.master_port)]
    return ["--standalone", "--local-addr", "127.0.0.1", *processes]


def rank_variables(plan: Plan, environment: Environment) -> dict[str, str]:
    """Environment variables of the ranks; what the user has set stays, where the plan does not depend on it."""
    wanted = {
        "OMP_NUM_THREADS": str(max(1, environment.cores // plan.layout.processes)),
        "TOKENIZERS_PARALLELISM": "false",  # data loader processes are forks
        "HF_HUB_OFFLINE": "1",
    }
    if plan.device == "cuda":
        wanted |= {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "TORCH_NCCL_AVOID_RECORD_STREAMS": "1"}
        if serialises_launches(plan):  # leave SMs to the collectives that run beside the norms
            wanted |= {"NVTE_FWD_LAYERNORM_SM_MARGIN": "20", "NVTE_BWD_LAYERNORM_SM_MARGIN": "20"}
        if plan.tp_overlap is not None:
            wanted["UB_SKIPMC"] = "1"  # no NVLink multicast
        flags = plan.variables.megatron_args or ""
        if plan.cuda_graphs or any(flag in flags for flag in OWN_FLAGS):
            wanted["NCCL_GRAPH_REGISTER"] = "0"  # what NCCL registers in a graph moves with expandable segments
        if offloads_modules(plan):
            wanted["NVTE_CPU_OFFLOAD_V1"] = "1"  # Megatron asserts it: else Transformer Engine moves weights too
        if plan.config.pr == "fp32":  # Transformer Engine computes fp32 matmuls with 10 bits of mantissa
            wanted["NVIDIA_TF32_OVERRIDE"] = "0"
    else:  # threads that spin while they wait made training 8 times slower beside another busy program
        wanted["OMP_WAIT_POLICY"] = "PASSIVE"
    wanted |= environment.mine
    if plan.device == "cuda":
        wanted["CUDA_DEVICE_MAX_CONNECTIONS"] = "1" if serialises_launches(plan) else "32"
    wanted["PYTHONSAFEPATH"] = "1"  # a json.py in the working directory is not the json of ours
    paths = [path for path in environment.python_path.split(":") if path and path != str(REPOSITORY)]
    wanted["PYTHONPATH"] = ":".join([str(REPOSITORY), *paths])
    return wanted


def serialises_launches(plan: Plan) -> bool:
    """Megatron asserts CUDA_DEVICE_MAX_CONNECTIONS=1 under TP and CP before Blackwell; DP alone is 1 % faster at 32."""
    return plan.layout.tp > 1 or plan.layout.cp > 1


STARTED_VARIABLE = "MEGATRON_PATCH_STARTED"
"""Environment variable of the ranks: when the command was typed and when it became torchrun, in seconds since 1970."""
IMPORTED = time.time()
LONGEST_START = 10.0
"""Seconds that a shell and Python may take to get here; a clock that says more is wrong."""


def command_began() -> float:
    """The start of this process, which was the shell's before `exec` made it Python's."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since the machine's start
    began = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    return began if 0 <= IMPORTED - began < LONGEST_START else IMPORTED


def started() -> dict[str, str]:
    """The variable as it has to be when torchrun is started now."""
    return {STARTED_VARIABLE: f"{command_began():.3f} {time.time():.3f}"}
