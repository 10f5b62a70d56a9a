"""Comet: COMET_API_KEY, or COMET_MODE=offline, which writes archives into the run's folder (`comet upload` sends them).

Asked for by MP_LOGGERS; COMET_PROJECT_NAME and COMET_WORKSPACE count. Code, command line, git and screen are not sent.
"""

from __future__ import annotations

import os
from typing import Any

from megatron_patch.trainer.callbacks.base import Callback, Rank
from megatron_patch.trainer.loggers import PROJECT, ExternalLogger

SENT_BY_ITSELF = (
    *("log_code", "log_graph", "parse_args", "log_git_metadata", "log_git_patch", "log_env_details"),
    *("auto_param_logging", "auto_metric_logging"),
)
"""What Comet would take without being asked."""


def make(rank: Rank) -> Callback | None:
    """On the rank that speaks."""
    return Comet(rank) if rank.speaks else None


class Comet(ExternalLogger):
    """A resumed run goes on under its key; offline, each start is an archive of its own."""

    name = "comet"

    def open(self, run_id: str, config: dict[str, Any], *, resumed: bool) -> None:
        import comet_ml

        offline = os.environ.get("COMET_MODE", "").lower() == "offline"
        folder = self.rank.output_dir.resolve() / "comet"
        settings = comet_ml.ExperimentConfig(
            **dict.fromkeys(SENT_BY_ITSELF, False),
            auto_output_logging=False,
            display_summary_level=0,
            offline_directory=str(folder),
            name=self.run_name,
        )
        self._experiment = comet_ml.start(
            project_name=os.environ.get("COMET_PROJECT_NAME", PROJECT),
            workspace=os.environ.get("COMET_WORKSPACE"),
            experiment_key=run_id,
            mode="create" if offline or not resumed else "get_or_create",
            online=not offline,
            experiment_config=settings,
        )
        self._experiment.log_parameters(config)

    def log(self, metrics: dict[str, float], iteration: int) -> None:
        self._experiment.log_metrics(metrics, step=iteration)

    def finish(self) -> None:
        self._experiment.end()
