"""The line that says where a run starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from megatron_patch.trainer.summary import start_of

NOTHING = {"load": None, "finetune": False, "ckpt_step": None, "hf_checkpoint": None, "base_checkpoint": None}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "from scratch, seed 7"),
        ({"hf_checkpoint": "/hf"}, "from the Hugging Face folder /hf, weights only"),
        ({"load": "/old", "finetune": True, "ckpt_step": 3}, "from checkpoint /old, iteration 3, weights only"),
        ({"load": "/run", "ckpt_step": 5}, "resuming from iteration 5 of /run"),
        # adapters, whose base is read at every start
        ({"base_checkpoint": "/old/iter_0000003"}, "from checkpoint /old/iter_0000003, weights only"),
        ({"base_checkpoint": "/old", "load": "/run", "ckpt_step": 5}, "resuming from iteration 5 of /run"),
        ({"hf_checkpoint": "/hf", "load": "/run", "ckpt_step": 5}, "resuming from iteration 5 of /run"),
    ],
)
def test_where_a_run_starts(given: dict[str, object], said: str) -> None:
    assert str(start_of(SimpleNamespace(**NOTHING | {"seed": 7} | given))) == said
