"""The state of fp8 recipes in a checkpoint, unpickled with a list of classes."""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import types
from typing import Any

from megatron_patch.backend.patching import BackendError, replace

RECIPES = "transformer_engine.common.recipe"


def restrict_unpickling() -> None:
    """Let Transformer Engine unpickle nothing but recipes and tensors. Needs `saving.restricted` before."""
    import transformer_engine.pytorch  # noqa: F401

    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("transformer_engine.pytorch")]
    unpickling = [module for module in modules if getattr(module, "pickle", None) is pickle]
    if not unpickling:
        raise BackendError("engine-without-pickle")
    for module in unpickling:
        limited = types.SimpleNamespace(dumps=pickle.dumps, loads=_load)
        replace(module, "pickle", limited, why="2.20 unpickles the fp8 state of a checkpoint, which may run code")


def _load(data: bytes) -> Any:
    """As pickle.loads."""
    from megatron.core.safe_globals import SafeUnpickler

    class Unpickler(SafeUnpickler):
        """Megatron's list lacks some of Transformer Engine 2.20's recipes and their parts."""

        def find_class(self, module: str, name: str) -> Any:
            if module == RECIPES and name.isidentifier():
                found = getattr(importlib.import_module(module), name, None)
                if isinstance(found, type) and found.__module__ == module:
                    return found
            return super().find_class(module, name)

    return Unpickler(io.BytesIO(data)).load()
