"""SwanLab: in its cloud where SWANLAB_API_KEY is set, else offline in the run's folder (`swanlab sync` sends it).

Asked for by MP_LOGGERS; SWANLAB_MODE (online, local, offline) and SWANLAB_PROJ_NAME decide otherwise.
"""

from __future__ import annotations

import os
from typing import Any

from megatron_patch.common.messages import localized
from megatron_patch.trainer.callbacks.base import Callback, Rank
from megatron_patch.trainer.loggers import PROJECT, ExternalLogger


def make(rank: Rank) -> Callback | None:
    """On the rank that speaks."""
    return SwanLab(rank) if rank.speaks else None


class SwanLab(ExternalLogger):
    """A resumed run goes on under its id."""

    name = "swanlab"

    def open(self, run_id: str, config: dict[str, Any], *, resumed: bool) -> None:
        import swanlab

        folder = self.rank.output_dir.resolve() / "swanlab"
        folder.mkdir(exist_ok=True)
        mode = os.environ.get("SWANLAB_MODE") or ("online" if os.environ.get("SWANLAB_API_KEY") else "offline")
        self.rank.screen.say(localized("logger-mode", name=self.name, mode=mode))
        self._run = swanlab.init(
            project=os.environ.get("SWANLAB_PROJ_NAME", PROJECT),
            name=self.run_name,
            id=run_id,
            resume="allow",
            log_dir=str(folder),
            mode=mode,
            config=config,
        )

    def log(self, metrics: dict[str, float], iteration: int) -> None:
        self._run.log(metrics, step=iteration)

    def finish(self) -> None:
        self._run.finish()
