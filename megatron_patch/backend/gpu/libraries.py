"""Make Transformer Engine load the CUDA libraries that torch brought along."""

from __future__ import annotations

import ctypes
import os
from collections.abc import MutableMapping
from pathlib import Path

import torch

HOMES = {"CUDNN_HOME": "cudnn", "NVRTC_HOME": "cu13", "CURAND_HOME": "cu13"}
"""The variable that TE looks at first for each library, and the folder of torch's wheels that holds it."""


def use_torchs_libraries(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Give Transformer Engine torch's cuDNN, NVRTC and cuRAND. Call it before TE is imported.

    TE 2.20 takes the first cuDNN of $CUDNN_HOME, $CUDA_HOME, /usr/local/cuda and the system, and cuDNN's eight parts
    from wherever the system's loader finds them. Two versions in one process clash: TE cannot be imported, or fused
    attention is off without a word and the S x S kernel runs in its place (15 times slower, 4 GiB a layer at 8192
    tokens). Parts that are loaded already are not looked for again.

    Returns:
        What was done, one line each; a variable that the user has set stays, and is used.
    """
    wheels = Path(torch.__file__).parents[1] / "nvidia"
    done = []
    for name, folder in HOMES.items():
        if name not in environ and (wheels / folder / "lib").is_dir():
            environ[name] = str(wheels / folder)
            done.append(f"{name}={environ[name]}")
    if "CUDNN_HOME" in environ:
        parts = load_all(Path(environ["CUDNN_HOME"]) / "lib")
        done.append(f"{len(parts)} parts of cuDNN loaded from {environ['CUDNN_HOME']}")
    return done


def load_all(folder: Path) -> list[str]:
    """Load cuDNN's parts into this process, each as soon as those that it needs are there.

    Returns:
        names of the files that could be loaded.
    """
    waiting, loaded = sorted(folder.glob("libcudnn*.so.9")), []
    progress = True
    while waiting and progress:
        progress = False
        for path in list(waiting):
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue  # needs one that comes later
            waiting.remove(path)
            loaded.append(path.name)
            progress = True
    return loaded


def cudnn_versions() -> tuple[str, str]:
    """The cuDNN that torch runs and the one that Transformer Engine runs, as `9.19.0`. They must be the same."""
    from transformer_engine.pytorch.utils import get_cudnn_version

    number = torch.backends.cudnn.version() or 0
    torchs = (number // 10000, number // 100 % 100, number % 100)  # since cuDNN 9
    return ".".join(map(str, torchs)), ".".join(map(str, get_cudnn_version()))
