"""MLflow: to MLFLOW_TRACKING_URI, else to files in the run's folder (`mlflow ui --backend-store-uri RUN/mlflow`).

Asked for by MP_LOGGERS. Of its own variables MLFLOW_EXPERIMENT_NAME counts too.
"""

from __future__ import annotations

import os
import time
from typing import Any

from megatron_patch.trainer.callbacks.base import Callback, Rank
from megatron_patch.trainer.loggers import PROJECT, ExternalLogger

TAG = "megatron_patch.id"


def make(rank: Rank) -> Callback | None:
    """On the rank that speaks."""
    return MLflow(rank) if rank.speaks else None


class MLflow(ExternalLogger):
    """Through its client, which leaves no run open in the process."""

    name = "mlflow"

    def open(self, run_id: str, config: dict[str, Any], *, resumed: bool) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (self.rank.output_dir.resolve() / "mlflow").as_uri()
        if uri.startswith("file:"):  # 3.17 wants to be asked for files, which need no server and no database
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=uri)
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(title)
        experiment = found.experiment_id if found else self._client.create_experiment(title)
        earlier = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run_id}'") if resumed else []
        if earlier:
            self._run = earlier[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return  # its parameters cannot be changed there
        self._run = self._client.create_run(experiment, run_name=self.run_name, tags={TAG: run_id}).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in config.items()]
        for first in range(0, len(params), 100):  # its own limit
            self._client.log_batch(self._run, params=params[first : first + 100])

    def log(self, metrics: dict[str, float], iteration: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [self._metric(key, value, now, iteration) for key, value in metrics.items()])

    def finish(self) -> None:
        self._client.set_terminated(self._run)
