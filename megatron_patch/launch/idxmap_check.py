"""Idxmaps looked at before a start, by a process that may import numpy: see `data/check_idxmap.py`."""

from __future__ import annotations

import json
import os
import sys

from megatron_patch.common.messages import from_json
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.problems import Problem


def idxmap_problems(plan: Plan) -> list[Problem]:
    """What is wrong with the structure of the data, or with their ids. Takes 0.2 s, a second or two for terabytes."""
    if plan.variables.dataset_type != "idxmap":
        return []
    import subprocess  # 10 ms that a dry run saves

    names = {corpus.path: "VALID_DATASET_PATH" for corpus in plan.valid_data or ()}
    names |= {corpus.path: "DATASET_PATH" for corpus in plan.train_data}
    asked = {"prefixes": list(names), "vocab_size": min(plan.vocab_size, plan.tokenizer.ids), "sft": plan.config.sft}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "megatron_patch.data.check_idxmap"],
        input=json.dumps(asked),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return [Problem("idxmap-check-fails", "DATASET_PATH", status=done.returncode, last=last)]
    return [Problem("idxmap-damaged", names[prefix], found=from_json(what)) for prefix, what in json.loads(done.stdout)]
