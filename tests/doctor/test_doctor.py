"""The doctor on this machine, and on machines that are made up of facts."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from megatron_patch.common.machine import Gpu
from megatron_patch.doctor import checks
from megatron_patch.doctor.findings import Finding, is_wrong, report

H200 = Gpu(name="NVIDIA H200", memory_bytes=150_754_820_096, uuid="GPU-1")
HEALTHY: dict[str, Any] = {
    "torch": {"version": "2.11.0+cu130", "cuda_build": "13.0", "cuda_works": True, "cudnn": 91900, "nccl": "2.28.9"},
    "gpus": {"capabilities": [[9, 0], [9, 0]], "without_peer_access": [], "product": 1024.0},
    "engine": {
        "version": "2.20.2",
        "cudnn_of_torch": "9.19.0",
        "cudnn_of_engine": "9.19.0",
        "attention": "cuDNN 9.19.0 fused (sub-backend 1)",
        "settings": [],
        "import_seconds": 3.0,
    },
}


def findings_of(facts: dict[str, Any], gpus: tuple[Gpu, ...] = (H200, H200)) -> list[Finding]:
    """Everything that depends on the probe's facts."""
    return [
        *checks.check_gpus(gpus, gpus, facts),
        *checks.check_torch(facts, on_gpu=bool(gpus)),
        *checks.check_engine(facts, on_gpu=bool(gpus)),
        *checks.check_links(gpus, facts, {}),
    ]


def changed(part: str, **values: Any) -> dict[str, Any]:
    """Healthy facts with one part different."""
    return HEALTHY | {part: HEALTHY[part] | values}


def test_a_healthy_machine_has_nothing_wrong() -> None:
    findings = findings_of(HEALTHY)
    assert not is_wrong(findings)
    assert {"GPUs", "CUDA", "NCCL", "Transformer Engine", "cuDNN", "attention", "links"} <= {f.name for f in findings}


@pytest.mark.parametrize(
    ("facts", "name", "advice"),
    [
        ({"crash": "status -11: "}, "libraries", "make setup"),
        (changed("torch", cuda_works=False, cuda_build=None), "CUDA", "CUDA build"),
        (changed("engine", cudnn_of_engine="9.14.0"), "cuDNN", "CUDNN_HOME"),
        (changed("engine", attention="unfused, which keeps S x S scores"), "attention", "NVTE_DEBUG"),
        (HEALTHY | {"engine": None}, "Transformer Engine", "requirements-gpu.txt"),
        (HEALTHY | {"engine": {"error": "OSError: libcudnn.so.9"}}, "Transformer Engine", "make setup"),
        (changed("gpus", product=1000.0), "computing", "replaced"),
        (changed("gpus", capabilities=[[7, 5]]), "capability", "fp16"),
        (HEALTHY | {"gpus": {"error": "RuntimeError: CUDA error"}}, "computing", "driver"),
    ],
)
def test_what_is_wrong_is_named_with_advice(facts: dict[str, Any], name: str, advice: str) -> None:
    wrong = [finding for finding in findings_of(facts) if finding.level == "wrong"]
    assert [finding.name for finding in wrong] == [name]
    assert advice in str(wrong[0].advice)


def test_slow_links_are_a_note() -> None:
    findings = findings_of(changed("gpus", without_peer_access=[[0, 1]]))
    assert not is_wrong(findings)
    assert "no peer access" in report(findings)


def test_gpus_hidden_by_cuda_visible_devices_are_named() -> None:
    (finding,) = checks.check_gpus((H200,), (), {})
    assert finding.level == "wrong" and "CUDA_VISIBLE_DEVICES" in str(finding.advice)


def test_pins_are_read_with_their_includes() -> None:
    pins = checks.pinned("requirements-gpu.txt")
    assert pins["megatron-core"] == "0.19.2" and pins["transformer-engine"] == "2.20.2"


def test_wrong_needs_advice() -> None:
    with pytest.raises(ValueError, match="advice"):
        Finding(name="x", found="y", level="wrong")


def test_command_on_this_machine() -> None:
    """Status and JSON agree, GPU or not."""
    command = [sys.executable, "-m", "megatron_patch.doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    findings = json.loads(done.stdout)
    assert done.returncode == any(finding["level"] == "wrong" for finding in findings)
    assert {"Python", "torch", "GPUs", "disk", "shared memory"} <= {finding["name"] for finding in findings}
