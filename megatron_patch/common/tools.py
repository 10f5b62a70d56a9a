"""What a tool is called where this is installed: a checkout has scripts, a wheel the one command alone.

Standard library only.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "adapters": "toolkits/python.sh -m megatron_patch.checkpoint.adapters",
    "convert": "toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh",
    "data pretrain": "toolkits/pretrain_data_preprocessing/run_make_pretraining_dataset.sh",
    "data sft": "toolkits/sft_data_preprocessing/run_build_idxmap_sft_dataset.sh",
    "data verify": "toolkits/python.sh toolkits/sft_data_preprocessing/verify.py",
    "doctor": "toolkits/python.sh -m megatron_patch.doctor",
    "evaluate": "LM-Evaluation-Harness/evaluate.sh",
}
"""By the command's name (`megatron_patch/cli.py`); those that texts name as `{tool:convert}`."""

started_as: str | None = None
"""`megatron-patch convert`, where that is how the user has started the tool that runs."""


def tool(name: str, root: Path = ROOT) -> str:
    """How a user starts a tool.

    Args:
        root: the folder that `megatron_patch` lies in.
    """
    return f"sh {SCRIPTS[name]}" if (root / "toolkits" / "python.sh").is_file() else f"megatron-patch {name}"
