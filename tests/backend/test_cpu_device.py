"""The fake cuda:0, in a process of its own: it changes torch for good."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def run(code: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with the CPU backend."""
    program = "from megatron_patch.backend import BackendError, enable\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)


def test_cuda_is_the_cpu() -> None:
    """Factories, conversions, streams and generators of `cuda` all mean the CPU; the second call is free."""
    done = run(
        """
        import torch
        enable("cpu")
        enable("cpu")
        tensors = [torch.empty(2, device="cuda"), torch.zeros(2, device=torch.device("cuda", 0)), torch.ones(2).cuda(),
                   torch.ones(2).to("cuda"), torch.ones(2).to(device=0), torch.ones(2).new_zeros(3, device="cuda"),
                   torch.tensor([1.0], device="cuda:0", pin_memory=True), torch.nn.Linear(2, 2).cuda().weight]
        assert {t.device.type for t in tensors} == {"cpu"}
        assert torch.ones(2).type() == "torch.cuda.FloatTensor"
        assert torch.ones(2).to(torch.bfloat16).dtype == torch.bfloat16
        assert torch.empty(2, device="meta").device.type == "meta"
        with torch.device("meta"):
            assert torch.nn.Linear(2, 2).weight.is_meta and torch.empty(2).is_meta
        assert not torch.cuda.is_available() and torch.cuda.device_count() == 1
        with torch.cuda.stream(torch.cuda.Stream()) as stream:
            torch.cuda.current_stream().wait_stream(torch.cuda.Event())
        torch.cuda.manual_seed(3); a = torch.rand(4)
        torch.cuda.set_rng_state(torch.cuda.get_rng_state()); torch.manual_seed(3); b = torch.rand(4, device="cuda")
        assert torch.equal(a, b)
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("enable('tpu')", "device is 'tpu'; valid: cpu, cuda"),
        ("import megatron.core; enable('cpu')", "must be called before megatron is imported"),
    ],
)
def test_refusals(code: str, message: str) -> None:
    """Wrong devices and wrong order say so."""
    done = run(code)
    assert done.returncode != 0
    assert message in done.stderr
