"""What can only be seen by importing the libraries: run in a process of its own, as a wrong library may crash it.

python -m megatron_patch.doctor.probe      prints one JSON object
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Each look on its own: one failure hides no other."""
    facts: dict[str, Any] = {}
    for name, look in (("torch", look_at_torch), ("gpus", look_at_gpus), ("engine", look_at_engine)):
        facts[name] = _tried(look)
    print("\n" + json.dumps(facts))


def _tried(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except Exception as error:  # whatever a library throws is a finding
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc().splitlines()[-6:]}


def look_at_torch() -> dict[str, Any]:
    """Version, CUDA build, NCCL, cuDNN."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "cuda_works": cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
    }


def look_at_gpus() -> dict[str, Any] | None:
    """Capability and peer access of each GPU, and a small product on the first."""
    import torch

    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    a = torch.full((256, 256), 2.0, device="cuda", dtype=torch.bfloat16)
    return {
        "capabilities": [list(torch.cuda.get_device_capability(i)) for i in range(count)],
        "without_peer_access": [pair for pair in pairs if not torch.cuda.can_device_access_peer(*pair)],
        "product": float((a @ a)[0, 0]),
    }


def look_at_engine() -> dict[str, Any] | None:
    """Transformer Engine: version, its cuDNN against torch's, the attention it would choose at 8192 tokens in bf16."""
    import importlib.util

    import torch

    if importlib.util.find_spec("transformer_engine") is None or not torch.cuda.is_available():
        return None
    from megatron_patch.backend.gpu.attention import choose_kernel, describe
    from megatron_patch.backend.gpu.libraries import cudnn_versions, use_torchs_libraries

    begin = time.perf_counter()
    settings = use_torchs_libraries()
    import transformer_engine
    import transformer_engine.pytorch
    from transformer_engine.pytorch.attention.dot_product_attention.utils import AttentionParams, get_attention_backend

    seconds = time.perf_counter() - begin
    asked = AttentionParams(
        qkv_layout="sbhd_sbhd_sbhd",
        num_heads=32,
        num_gqa_groups=8,
        max_seqlen_q=8192,
        max_seqlen_kv=8192,
        head_dim_qk=128,
        head_dim_v=128,
        attn_mask_type="causal",
    )
    torchs, engines = cudnn_versions()
    return {
        "version": transformer_engine.__version__,
        "cudnn_of_torch": torchs,
        "cudnn_of_engine": engines,
        "attention": describe(choose_kernel(get_attention_backend, asked, prefer_flash=True)),
        "settings": settings,
        "import_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
