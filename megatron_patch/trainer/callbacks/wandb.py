"""Weights & Biases. Megatron logs there itself, under `--wandb-project`; what is ours is that checkpoints arrive whole.

TensorBoard is Megatron's alone (`--tensorboard-dir`): nothing is missing in it, so it has no file here.
"""

from __future__ import annotations

from typing import Any

from megatron_patch.trainer.callbacks.base import Callback, Rank


def make(rank: Rank) -> Callback | None:
    """On every rank: the last one logs, the first one names checkpoints."""
    return WeightsAndBiases()


class WeightsAndBiases(Callback):
    """Prepares Megatron's own logging."""

    def arguments(self, args: Any) -> None:
        if args.wandb_project:
            from megatron_patch.backend import wandb_fixes

            wandb_fixes.log_complete_checkpoints()
