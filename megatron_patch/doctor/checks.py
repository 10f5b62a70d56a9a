"""From facts about the machine to findings. Imports no torch: `probe.py` does that in another process."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from megatron_patch.common.machine import Gpu, available_memory, installed_gpus, usable_cores, visible_gpus
from megatron_patch.doctor.findings import Finding

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL = "run `make setup`"
PROBE_SECONDS = 180
SHARED_MEMORY = 1 << 30
"""Bytes of /dev/shm that data loaders and NCCL want on one machine."""
OLDEST_GPU = (8, 0)
"""Compute capability from which on bf16 and fused attention exist; fp8 from 8.9 on."""
TRAINING = {"torch", "megatron-core", "transformer-engine", "transformers", "safetensors", "numpy", "rich", "omegaconf"}
"""Without these nothing trains; the others are for data, plots and evaluation."""
INTERNALS = {"torch", "megatron-core", "transformer-engine"}
"""`backend/` touches their internals: another version is refused."""


def examine(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look at everything. Takes some 20 s on a GPU machine, most of it imports."""
    gpus = installed_gpus()
    visible = visible_gpus(gpus, environ.get("CUDA_VISIBLE_DEVICES"))
    facts = probe()
    return [
        *check_python(),
        *check_packages(on_gpu=bool(visible)),
        *check_gpus(gpus, visible, facts),
        *check_torch(facts, on_gpu=bool(visible)),
        *check_engine(facts, on_gpu=bool(visible)),
        *check_links(visible, facts, environ),
        *check_machine(),
    ]


def probe() -> dict[str, Any]:
    """Facts from the libraries; `{"crash": ...}` if they bring the process down."""
    environ = os.environ | {
        "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "megatron_patch.doctor.probe"]
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"crash": f"importing the libraries took more than {PROBE_SECONDS} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"crash": f"status {done.returncode}: {done.stderr.strip()[-400:]}"}
    facts: dict[str, Any] = json.loads(lines[-1])
    return facts


def check_python() -> Iterator[Finding]:
    """Megatron-core's wheel needs 3.12."""
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info[:2] == (3, 12):
        yield Finding(name="Python", found=found)
    else:
        yield Finding(name="Python", found=found, level="wrong", advice=f"Python 3.12 is needed: {INSTALL}")


def check_packages(*, on_gpu: bool) -> Iterator[Finding]:
    """What requirements.txt pins."""
    for name, wanted in pinned("requirements-gpu.txt" if on_gpu else "requirements.txt").items():
        try:
            found = version(name)
        except PackageNotFoundError:
            level = "wrong" if name in TRAINING else "note"
            yield Finding(name=name, found="not installed", level=level, advice=f"{INSTALL} ({name}=={wanted})")
            continue
        if found.split("+")[0] == wanted:
            yield Finding(name=name, found=found)
        else:
            level = "wrong" if name in INTERNALS else "note"
            yield Finding(name=name, found=found, level=level, advice=f"made and tried with {wanted}: {INSTALL}")


def pinned(file: str) -> dict[str, str]:
    """Packages and versions of a requirements file, and of those that it includes."""
    pins: dict[str, str] = {}
    path = REPOSITORY / file
    # installed as a package, the same lines are in its metadata
    lines = path.read_text().splitlines() if path.is_file() else requires("megatron-patch") or []
    for line in lines:
        if "extra ==" in line and "gpu" not in file:
            continue
        if line.startswith("-r "):
            pins |= pinned(line[3:].strip())
        elif match := re.match(r"([A-Za-z0-9-]+)(?:\[\w+\])?==([^\s;]+)", line):
            pins[match[1]] = match[2]
    return pins


def check_gpus(gpus: tuple[Gpu, ...], visible: tuple[Gpu, ...], facts: Mapping[str, Any]) -> Iterator[Finding]:
    """How many, which, and whether they compute."""
    if not gpus:
        yield Finding(name="GPUs", found="none: the ranks compute on the CPU", level="note")
        return
    kinds = ", ".join(f"{gpu.name} ({gpu.memory_bytes / 1e9:.0f} GB)" for gpu in dict.fromkeys(visible))
    names = {gpu.name for gpu in visible}
    if not visible:
        advice = "CUDA_VISIBLE_DEVICES hides them: unset it"
        yield Finding(name="GPUs", found=f"{len(gpus)}, none visible", level="wrong", advice=advice)
        return
    found = f"{len(visible)} x {visible[0].name}, {visible[0].memory_bytes / 1e9:.0f} GB each"
    if len(names) > 1:
        yield Finding(name="GPUs", found=kinds, level="note", advice="unlike GPUs: the slowest sets the pace")
    else:
        yield Finding(name="GPUs", found=found)
    seen = facts.get("gpus") or {}
    if "error" in seen:
        yield Finding(
            name="computing", found=seen["error"], level="wrong", advice="the driver does not fit torch's CUDA"
        )
    elif seen and seen["product"] != 1024.0:
        advice = "the GPU computes wrongly: have it replaced"
        yield Finding(name="computing", found=f"256 x 4 gives {seen['product']}", level="wrong", advice=advice)
    for capability in sorted({tuple(one) for one in seen.get("capabilities", [])}):
        if capability < OLDEST_GPU:
            advice = "no bf16 and no fused attention there: train in fp16, or on newer GPUs"
            yield Finding(name="capability", found=".".join(map(str, capability)), level="wrong", advice=advice)
        elif capability < (8, 9):
            yield Finding(name="capability", found=".".join(map(str, capability)), level="note", advice="no fp8")


def check_torch(facts: Mapping[str, Any], *, on_gpu: bool) -> Iterator[Finding]:
    """torch sees the GPU; NCCL and cuDNN of torch."""
    if "crash" in facts:
        yield Finding(name="libraries", found=facts["crash"], level="wrong", advice=f"{INSTALL}; see the message")
        return
    torch = facts["torch"]
    if "error" in torch:
        yield Finding(name="torch", found=torch["error"], level="wrong", advice=INSTALL)
        return
    if not on_gpu:
        return
    if not torch["cuda_works"]:
        build = torch["cuda_build"] or "none: a build for CPUs"
        advice = "install torch's CUDA build, and a driver that is new enough for it"
        yield Finding(name="CUDA", found=f"torch cannot use the GPU (its CUDA: {build})", level="wrong", advice=advice)
        return
    yield Finding(name="CUDA", found=f"{torch['cuda_build']} (of torch's build)")
    yield Finding(name="NCCL", found=torch["nccl"])


def check_engine(facts: Mapping[str, Any], *, on_gpu: bool) -> Iterator[Finding]:
    """Transformer Engine, and the trap: another cuDNN than torch's turns fused attention off without a word."""
    engine = facts.get("engine")
    if not on_gpu or "crash" in facts:
        return
    if engine is None:
        advice = f"{INSTALL} (requirements-gpu.txt)"
        yield Finding(name="Transformer Engine", found="not usable", level="wrong", advice=advice)
        return
    if "error" in engine:
        yield Finding(name="Transformer Engine", found=engine["error"], level="wrong", advice=INSTALL)
        return
    yield Finding(name="Transformer Engine", found=f"{engine['version']}, imported in {engine['import_seconds']} s")
    torchs, engines = engine["cudnn_of_torch"], engine["cudnn_of_engine"]
    if torchs == engines:
        yield Finding(name="cuDNN", found=f"{torchs}, the same for torch and Transformer Engine")
    else:
        advice = "set CUDNN_HOME to the folder nvidia/cudnn beside torch, and put its lib/ first in LD_LIBRARY_PATH"
        found = f"{torchs} for torch, {engines} for Transformer Engine"
        yield Finding(name="cuDNN", found=found, level="wrong", advice=advice)
    fast = engine["attention"].startswith(("cuDNN", "FlashAttention"))
    advice = "" if fast else "the S x S kernel would run: see cuDNN above; NVTE_DEBUG=1 NVTE_DEBUG_LEVEL=2 tells why"
    level = "ok" if fast else "wrong"
    yield Finding(name="attention", found=f"{engine['attention']} (bf16, 8192 tokens)", level=level, advice=advice)


def check_links(visible: tuple[Gpu, ...], facts: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Finding]:
    """How the GPUs reach each other."""
    if len(visible) < 2:
        return
    missing = (facts.get("gpus") or {}).get("without_peer_access", [])
    link = link_kinds()
    if missing:
        advice = "data go through RAM between these: keep TP within GPUs that have access"
        yield Finding(name="links", found=f"no peer access: {missing[:4]}", level="note", advice=advice)
    else:
        yield Finding(name="links", found=f"every GPU reaches every other directly{link}")
    if environ.get("NCCL_P2P_DISABLE") == "1":
        advice = "unset it: NCCL would send everything through RAM"
        yield Finding(name="NCCL_P2P_DISABLE", found="1", level="wrong", advice=advice)
    if environ.get("NCCL_NVLS_ENABLE") == "0":
        yield Finding(name="NCCL_NVLS_ENABLE", found="0: no NVLink multicast", level="note")


def link_kinds() -> str:
    """` (NV18)` from `nvidia-smi topo -m`; nothing where it does not tell."""
    if shutil.which("nvidia-smi") is None:
        return ""
    done = subprocess.run(["nvidia-smi", "topo", "-m"], capture_output=True, text=True, timeout=30, check=False)
    rows = [line for line in done.stdout.splitlines() if line.startswith("GPU")]
    kinds = sorted({word for row in rows for word in row.split() if re.fullmatch(r"NV\d+|PIX|PXB|PHB|NODE|SYS", word)})
    return f" ({', '.join(kinds)})" if kinds else ""


def check_machine() -> Iterator[Finding]:
    """Cores, RAM, disk, shared memory."""
    yield Finding(name="cores", found=str(usable_cores()))
    yield Finding(name="RAM", found=f"{available_memory() / 1e9:.0f} GB free")
    free = shutil.disk_usage(Path.cwd()).free
    advice = "one checkpoint of 8B takes 112 GB: choose OUTPUT_BASEPATH elsewhere"
    few = free < 20e9
    level = "note" if few else "ok"
    yield Finding(name="disk", found=f"{free / 1e9:.0f} GB free here", level=level, advice=advice if few else "")
    shared = Path("/dev/shm")
    size = shutil.disk_usage(shared).total if shared.is_dir() else 0
    small = size < SHARED_MEMORY
    advice = "data loaders and NCCL fail with bus errors: start the container with --shm-size=8g" if small else ""
    level = "wrong" if small else "ok"
    yield Finding(name="shared memory", found=f"{size / 1e9:.1f} GB in /dev/shm", level=level, advice=advice)
