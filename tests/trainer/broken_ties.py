"""The trainer with a mistake in its pipeline: the gradient of tied embeddings stays in the stage that computed it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.trainer import entry


def break_ties(device: str) -> None:
    """Enable the backend, then leave the exchange out."""
    enable(device)
    module = import_module("megatron.core.distributed.finalize_model_grads")  # a function has the same name
    module._allreduce_word_embedding_grads = lambda *args, **options: None


if __name__ == "__main__":
    enable, entry.enable = entry.enable, break_ties
    entry.main()
