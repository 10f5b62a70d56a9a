"""Loggers write to their real stores: MLflow's files, SwanLab, Trackio and Comet offline where they are installed."""

from __future__ import annotations

import os
import sqlite3
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from megatron_patch.common.loggers import LOGGERS
from megatron_patch.trainer import callbacks

from .harness import REPOSITORY, launch_warm

SAVE = " --save {0}/checkpoints --save-interval 2"
KEY = "s3cret-key-of-nobody"


def installed(name: str) -> pytest.MarkDecorator:
    package = LOGGERS[name].package
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed ({LOGGERS[name].pin})")


def run(output: Path, data: Path, logger: str, iterations: int, more: str = "") -> list[float]:
    """Train, and return the losses of metrics.jsonl."""
    flags = f"--train-iters {iterations} --loggers tensorboard,{logger} --eval-interval 2 --eval-iters 1"
    flags += f" --valid-data-path {data} --lr-decay-iters 4" + SAVE.format(output) + more
    done = launch_warm(output, data, flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{logger}: nothing logged" not in done.stdout, done.stdout
    return done.losses


@installed("mlflow")
def test_mlflow_files_hold_every_step_and_a_resumed_run_goes_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", KEY)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    output = tmp_path / "the-run"
    run(output, data, "mlflow", 2)
    losses = run(output, data, "mlflow", 4, f" --load {output}/checkpoints --override-opt-param-scheduler")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(output / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("megatron-patch")
    assert experiment is not None
    (one,) = client.search_runs([experiment.experiment_id])
    assert one.info.status == "FINISHED" and one.info.run_name == "the-run"
    history = client.get_metric_history(one.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == list(enumerate(losses, 1))
    assert [metric.step for metric in client.get_metric_history(one.info.run_id, "validation_loss")][:2] == [2, 4]
    assert not any(KEY.encode() in path.read_bytes() for path in output.rglob("*") if path.is_file())


def test_a_server_that_is_not_there_ends_the_run_before_its_first_step(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:" + KEY + "@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = launch_warm(tmp_path / "run", data, "--train-iters 3 --loggers mlflow")
    assert done.returncode != 0
    assert done.losses == []
    assert "mlflow: cannot be opened" in done.stderr
    written = [path.read_text(errors="replace") for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(KEY in text for text in (done.stdout, done.stderr, *written))


@installed("swanlab")
def test_swanlab_has_the_metrics_offline(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
    run(tmp_path / "run", data, "swanlab", 2)
    (file,) = (tmp_path / "run" / "swanlab").glob("run-*/*.swanlab")
    assert b"tokens_per_s_per_gpu" in file.read_bytes() and b"validation_loss" in file.read_bytes()


@installed("trackio")
def test_trackio_has_the_metrics_in_its_database(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run(tmp_path / "run", data, "trackio", 2)
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as opened:
        rows = opened.execute("select step, metrics from metrics order by step").fetchall()
    assert {step for step, _ in rows} == {1, 2}
    assert any("tokens_per_s_per_gpu" in str(metrics) for _, metrics in rows)


@installed("comet")
def test_comet_has_the_metrics_and_not_the_command_line(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMET_MODE", "offline")
    run(tmp_path / "run", data, "comet", 2)
    (archive,) = (tmp_path / "run" / "comet").glob("*.zip")
    with zipfile.ZipFile(archive) as opened:
        content = b"".join(opened.read(name) for name in opened.namelist())
    assert b"tokens_per_s_per_gpu" in content
    assert os.fsencode(REPOSITORY / "examples") not in content, "the command line is not sent"


def test_each_is_a_file_a_row_and_an_extra() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, logger in LOGGERS.items():
        assert (Path(callbacks.__path__[0]) / f"{name}.py").is_file()
        assert extras[name] == [logger.pin]
