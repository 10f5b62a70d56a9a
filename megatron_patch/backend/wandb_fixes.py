"""Weights & Biases: not imported for nothing, and told of a checkpoint once it is there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_patch.backend.patching import wrap
from megatron_patch.backend.saving.asynchronous import wait_for_last_save

LOOKS_EVERY = 0.1
"""Seconds."""


def hide_idle_wandb() -> None:
    """Let Megatron find no wandb where `--wandb-project` is not given. Call it before Megatron is imported: 0.19.2
    imports it for its timers, 0.3 s, and uses it only with that flag."""
    if not any(word.startswith("--wandb-project") for word in sys.argv):
        sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]  # an import of it fails


def log_complete_checkpoints() -> None:
    """Patch how checkpoints are logged. Call it once, before training, where `--wandb-project` is given.

    The last rank logs them, and the first gives them their name: written asynchronously, in a thread of each. The last
    one waits as long as that takes; where the first fails, torchrun ends both.
    """
    import wandb
    from megatron.training import wandb_utils

    @wrap(wandb_utils, "on_save_checkpoint_success", why="0.19.2 ends if the first rank has not named it yet")
    def log(
        original: Callable[..., Any], checkpoint: str, tracker: str, save_dir: str, iteration: int, **kwargs: Any
    ) -> Any:
        while not _is_named(Path(tracker), iteration):
            time.sleep(LOOKS_EVERY)
        return original(checkpoint, tracker, save_dir, iteration, **kwargs)

    @wrap(wandb, "finish", why="0.19.2 closes the run before the last checkpoint is logged there")
    def finish(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        wait_for_last_save()
        return original(*args, **kwargs)


def _is_named(tracker: Path, iteration: int) -> bool:
    try:
        return tracker.read_text().strip() == str(iteration)
    except FileNotFoundError:
        return False
