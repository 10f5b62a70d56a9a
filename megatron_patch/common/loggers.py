"""What MP_LOGGERS may name beside TensorBoard and Weights & Biases, which Megatron has itself. Knows no package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Logger:
    """A callback of this name lies in `trainer/callbacks/`."""

    package: str
    """What it imports."""
    pin: str
    """What pip installs; the extra of the same name in pyproject.toml."""
    keys: tuple[str, ...] = ()
    """Variables of which it needs one; only the package itself reads their values."""
    secret: str = ""
    """The variable of its key, which --emit k8s takes from a secret."""


LOGGERS = {
    "mlflow": Logger(package="mlflow", pin="mlflow-skinny==3.17.2", secret="MLFLOW_TRACKING_TOKEN"),
    "swanlab": Logger(package="swanlab", pin="swanlab==0.10.3", secret="SWANLAB_API_KEY"),
    "trackio": Logger(package="trackio", pin="trackio==0.43.0"),
    "comet": Logger(
        package="comet_ml", pin="comet_ml==3.58.8", keys=("COMET_API_KEY", "COMET_MODE"), secret="COMET_API_KEY"
    ),
}
