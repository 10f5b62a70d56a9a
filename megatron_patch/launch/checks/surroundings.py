"""The output folder, the cluster, loggers, and flags of Megatron's parser."""

from __future__ import annotations

import os
import shlex
from importlib.util import find_spec
from pathlib import Path

from megatron_patch.common.files import real_path
from megatron_patch.common.loggers import LOGGERS
from megatron_patch.data.sources import of_a_run
from megatron_patch.launch import megatron_flags
from megatron_patch.launch.argv import EMITTED, FIXED
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.inputs import DataSource
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import Findings, finds
from megatron_patch.runs.folder import REPORTS


def check_cluster(*, env: str, mp_master_port: int | None) -> Findings:
    """Under ENV=dlc the port is the cluster's."""
    if env != "dsw" and mp_master_port is not None:
        yield Problem("master-port-twice", "MP_MASTER_PORT", "ENV", env=env)


def check_wandb(
    *,
    environment: Environment,
    mp_loggers: str | None,
    mp_wandb_project: str | None,
    mp_wandb_entity: str | None,
    mp_wandb_name: str | None,
) -> Findings:
    """A project without a key would log nothing."""
    asked = {"PROJECT": mp_wandb_project, "ENTITY": mp_wandb_entity, "NAME": mp_wandb_name}
    names = [f"MP_WANDB_{name}" for name, value in asked.items() if value is not None]
    loggers = mp_loggers.split(",") if mp_loggers else ["wandb"]
    if names and "wandb" not in loggers:
        yield Problem("logger-not-asked", *names)
        return
    names += ["MP_LOGGERS"] if mp_loggers and "wandb" in loggers else []
    if names and not environment.wandb_key:
        yield Problem("wandb-no-key", *names)
    elif names and not environment.wandb_installed and not environment.only_plans:
        yield Problem("wandb-not-installed", *names)


def check_loggers(*, environment: Environment, mp_loggers: str | None) -> Findings:
    """What is asked for has its package, and its key where it cannot do without; keys are read by the logger alone."""
    for name in (mp_loggers or "").split(","):
        logger = LOGGERS.get(name)
        if logger is None:
            continue
        if logger.keys and not environment.inherited & set(logger.keys):
            yield Problem("logger-no-key", "MP_LOGGERS", logger=name, variables=" / ".join(logger.keys))
        if not environment.only_plans and find_spec(logger.package) is None:
            yield Problem("logger-not-installed", "MP_LOGGERS", logger=name, package=logger.package, pin=logger.pin)


@finds("megatron_args")
def check_megatron_args(*, mp_megatron_args: str | None) -> Findings:
    """More flags, but none against the plan."""
    if mp_megatron_args is None:
        return
    try:
        words = shlex.split(mp_megatron_args)
    except ValueError as error:
        yield Problem("megatron-args-form", "MP_MEGATRON_ARGS", error=error)
        return
    for fault in megatron_flags.faults(words, EMITTED | FIXED):
        yield Problem(fault.code, "MP_MEGATRON_ARGS", **fault.values)
    yield "megatron_args", tuple(words)


def check_flags_on_cpu(*, megatron_args: tuple[str, ...], device: str) -> Findings:
    """What only a GPU's run can do."""
    for name, _ in megatron_flags.grouped(megatron_args):
        if device == "cpu" and name in megatron_flags.INERT_ON_CPU:
            yield Problem("flag-on-cpu", "MP_MEGATRON_ARGS", flag=name, why=megatron_flags.INERT_ON_CPU[name])


def check_output(*, output_basepath: str) -> Findings:
    """A folder that is ours, or that can be made."""
    path = real_path(Path(output_basepath))
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        yield Problem("output-not-folder", "OUTPUT_BASEPATH", path=there)
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Problem("output-not-writable", "OUTPUT_BASEPATH", path=there)
    if output_basepath.startswith("~"):
        yield Problem("output-tilde", "OUTPUT_BASEPATH")
    elif (path / "config.json").is_file() and any(path.glob("*.safetensors")) and not of_a_run(path):
        yield Problem("output-is-model", "OUTPUT_BASEPATH", path=path)


def check_output_beside_data(
    *,
    output_basepath: str,
    mp_dataset_type: str,
    train_data: tuple[DataSource, ...],
    valid_data: tuple[DataSource, ...] | None,
) -> Findings:
    """A folder of conversations, in which a run would leave reports that are read as such."""
    output = real_path(Path(output_basepath))
    for name, data in (("DATASET_PATH", train_data), ("VALID_DATASET_PATH", valid_data or ())):
        for source in data if mp_dataset_type == "raw" else ():
            if real_path(Path(source.path)) in (output, output / REPORTS):
                yield Problem("output-is-data", "OUTPUT_BASEPATH", name, path=source.path)
