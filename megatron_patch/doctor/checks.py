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

from megatron_patch.common.machine import (
    SHARED_MEMORY,
    Gpu,
    available_memory,
    installed_gpus,
    shared_memory,
    usable_cores,
    visible_gpus,
)
from megatron_patch.common.messages import Message
from megatron_patch.doctor.findings import Finding

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL = Message("doctor-install")
PROBE_SECONDS = 180
OLDEST_GPU = (8, 0)
"""Compute capability from which on bf16 and fused attention exist; fp8 from 8.9 on."""
TRAINING = {"torch", "megatron-core", "transformer-engine", "transformers", "safetensors", "numpy", "rich", "omegaconf"}
"""Without these nothing trains; the others are for data, plots and evaluation."""
INTERNALS = {"torch", "megatron-core", "transformer-engine"}
"""`backend/` touches their internals: another version is refused."""


def examine() -> list[Finding]:
    """Look at everything. Takes some 20 s on a GPU machine, most of it imports."""
    gpus = installed_gpus()
    visible = visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    facts = probe()
    return [
        *check_python(),
        *check_packages(on_gpu=bool(visible)),
        *check_gpus(gpus, visible, facts),
        *check_torch(facts, on_gpu=bool(visible)),
        *check_engine(facts, on_gpu=bool(visible)),
        *check_links(visible, facts, os.environ),
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
        return {"crash": Message("doctor-slow-import", seconds=PROBE_SECONDS)}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"crash": Message("doctor-crash", status=done.returncode, error=done.stderr.strip()[-400:])}
    facts: dict[str, Any] = json.loads(lines[-1])
    return facts


def check_python() -> Iterator[Finding]:
    """Megatron-core's wheel needs 3.12."""
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info[:2] == (3, 12):
        yield Finding(name="Python", found=found)
    else:
        yield Finding(name="Python", found=found, level="wrong", advice=Message("doctor-python"))


def check_packages(*, on_gpu: bool) -> Iterator[Finding]:
    """What requirements.txt pins."""
    for name, wanted in pinned("requirements-gpu.txt" if on_gpu else "requirements.txt").items():
        try:
            found = version(name)
        except PackageNotFoundError:
            level = "wrong" if name in TRAINING else "note"
            advice = Message("doctor-install-package", name=name, wanted=wanted)
            yield Finding(name=name, found=Message("doctor-missing"), level=level, advice=advice)
            continue
        if found.split("+")[0] == wanted:
            yield Finding(name=name, found=found)
        else:
            level = "wrong" if name in INTERNALS else "note"
            yield Finding(name=name, found=found, level=level, advice=Message("doctor-other-version", wanted=wanted))


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
        yield Finding(name="GPUs", found=Message("doctor-no-gpus"), level="note")
        return
    kinds = ", ".join(f"{gpu.name} ({gpu.memory_bytes / 1e9:.0f} GB)" for gpu in dict.fromkeys(visible))
    names = {gpu.name for gpu in visible}
    if not visible:
        advice = Message("doctor-gpus-unhide")
        yield Finding(name="GPUs", found=Message("doctor-gpus-hidden", count=len(gpus)), level="wrong", advice=advice)
        return
    size = visible[0].memory_bytes / 1e9
    found = Message("doctor-gpus", count=len(visible), name=visible[0].name, gigabytes=size)
    if len(names) > 1:
        yield Finding(name="GPUs", found=kinds, level="note", advice=Message("doctor-gpus-unlike"))
    else:
        yield Finding(name="GPUs", found=found)
    seen = facts.get("gpus") or {}
    if "error" in seen:
        yield Finding(name="computing", found=seen["error"], level="wrong", advice=Message("doctor-driver"))
    elif seen and seen["product"] != 1024.0:
        product = Message("doctor-product", product=seen["product"])
        yield Finding(name="computing", found=product, level="wrong", advice=Message("doctor-replace"))
    for capability in sorted({tuple(one) for one in seen.get("capabilities", [])}):
        number = ".".join(map(str, capability))
        if capability < OLDEST_GPU:
            yield Finding(name="capability", found=number, level="wrong", advice=Message("doctor-old-gpu"))
        elif capability < (8, 9):
            yield Finding(name="capability", found=number, level="note", advice=Message("doctor-no-fp8"))


def check_torch(facts: Mapping[str, Any], *, on_gpu: bool) -> Iterator[Finding]:
    """torch sees the GPU; NCCL and cuDNN of torch."""
    if "crash" in facts:
        yield Finding(name="libraries", found=facts["crash"], level="wrong", advice=Message("doctor-install-see"))
        return
    torch = facts["torch"]
    if "error" in torch:
        yield Finding(name="torch", found=torch["error"], level="wrong", advice=INSTALL)
        return
    if not on_gpu:
        return
    if not torch["cuda_works"]:
        unusable = Message("doctor-no-cuda", build=torch["cuda_build"] or Message("doctor-cpu-build"))
        yield Finding(name="CUDA", found=unusable, level="wrong", advice=Message("doctor-cuda-build"))
        return
    yield Finding(name="CUDA", found=Message("doctor-cuda", build=torch["cuda_build"]))
    yield Finding(name="NCCL", found=torch["nccl"])


def check_engine(facts: Mapping[str, Any], *, on_gpu: bool) -> Iterator[Finding]:
    """Transformer Engine, and the trap: another cuDNN than torch's turns fused attention off without a word."""
    engine = facts.get("engine")
    if not on_gpu or "crash" in facts:
        return
    if engine is None:
        unusable, advice = Message("doctor-not-usable"), Message("doctor-install-gpu")
        yield Finding(name="Transformer Engine", found=unusable, level="wrong", advice=advice)
        return
    if "error" in engine:
        yield Finding(name="Transformer Engine", found=engine["error"], level="wrong", advice=INSTALL)
        return
    imported = Message("doctor-engine", version=engine["version"], seconds=engine["import_seconds"])
    yield Finding(name="Transformer Engine", found=imported)
    torchs, engines = engine["cudnn_of_torch"], engine["cudnn_of_engine"]
    if torchs == engines:
        yield Finding(name="cuDNN", found=Message("doctor-cudnn", version=torchs))
    else:
        two = Message("doctor-cudnn-two", torch=torchs, engine=engines)
        yield Finding(name="cuDNN", found=two, level="wrong", advice=Message("doctor-cudnn-one"))
    found = Message("doctor-attention", name=engine["attention"])
    if engine["attention"].startswith(("cuDNN", "FlashAttention")):
        yield Finding(name="attention", found=found)
    else:
        yield Finding(name="attention", found=found, level="wrong", advice=Message("doctor-attention-slow"))


def check_links(visible: tuple[Gpu, ...], facts: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Finding]:
    """How the GPUs reach each other."""
    if len(visible) < 2:
        return
    missing = (facts.get("gpus") or {}).get("without_peer_access", [])
    link = link_kinds()
    if missing:
        found, advice = Message("doctor-no-peers", pairs=str(missing[:4])), Message("doctor-no-peers-advice")
        yield Finding(name="links", found=found, level="note", advice=advice)
    else:
        yield Finding(name="links", found=Message("doctor-links", link=link))
    if environ.get("NCCL_P2P_DISABLE") == "1":
        yield Finding(name="NCCL_P2P_DISABLE", found="1", level="wrong", advice=Message("doctor-p2p"))
    if environ.get("NCCL_NVLS_ENABLE") == "0":
        yield Finding(name="NCCL_NVLS_ENABLE", found=Message("doctor-nvls"), level="note")


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
    yield Finding(name="RAM", found=Message("doctor-ram", gigabytes=available_memory() / 1e9))
    free = shutil.disk_usage(Path.cwd()).free
    found = Message("doctor-disk", gigabytes=free / 1e9)
    if free < 20e9:
        yield Finding(name="disk", found=found, level="note", advice=Message("doctor-disk-small"))
    else:
        yield Finding(name="disk", found=found)
    size = shared_memory()
    found = Message("doctor-shared", gigabytes=size / 1e9)
    if size < SHARED_MEMORY:
        yield Finding(name="shared memory", found=found, level="wrong", advice=Message("doctor-shared-small"))
    else:
        yield Finding(name="shared memory", found=found)
