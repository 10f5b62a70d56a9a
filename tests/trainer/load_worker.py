"""Load whole checkpoint folders through the backend: `load_worker.py FOLDER...`; prints what came of each as JSON."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def load(folder: str) -> str:
    """Read every tensor and object; give `loaded`, or the error."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        reader = dcp.FileSystemReader(folder)
        entries = reader.read_metadata().state_dict_metadata
        state = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            if isinstance(entry, TensorStorageMetadata)
            else io.BytesIO()
            for name, entry in entries.items()
        }
        planner = dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        dcp.load(state, storage_reader=reader, planner=planner, no_dist=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "loaded"


if __name__ == "__main__":
    from megatron_patch.backend import enable

    enable("cpu")
    print(json.dumps({folder: load(folder) for folder in sys.argv[1:]}))
