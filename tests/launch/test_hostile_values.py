"""Values that somebody else may have chosen: none becomes a line of a script, a command, or another manifest."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from megatron_patch.common.values import ValueProblem, text
from megatron_patch.launch.cluster import kubernetes, slurm
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.variables import VARIABLES

HOSTILE = (
    "x\ntouch pwned",
    "x\n#SBATCH --uid=0",
    "x\r#SBATCH --uid=0",
    "$(touch pwned)",
    "`touch pwned`",
    "a[$(touch pwned)]",
    "x; touch pwned",
    "x' ; touch pwned '",
    'x" ; touch pwned "',
    "x #y",
    "x\\",
    "x\x1b]0;title\x07",
    "x\x7f",
    "x\x85y",
    "x\u2028y",
    "$$(X) $(X) $X $$",
    "\udcff",
    "x: [y, &a b]",
    "--- !!python/object:os.system x",
)
FREE = [row.name for row in (*POSITIONS, *VARIABLES) if row.kind.parse.__qualname__.startswith("_text.")]
"""Positions and variables that take any text."""


def test_there_are_free_texts() -> None:
    """The parametrization below is about something."""
    assert {"DATASET_PATH", "OUTPUT_BASEPATH", "MP_SLURM_ARGS", "MP_WANDB_NAME", "MP_K8S_IMAGE"} <= set(FREE)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", FREE)
def test_every_value_is_refused_or_arrives_as_it_is(
    name: str,
    value: str,
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """job.sh, run by a real shell, starts the driver with the same 25 words and variables, and nothing else."""
    position = next((row.number for row in POSITIONS if row.name == name), None)
    typed = values(ENV="slurm", **({name: value} if position else {}))
    environ = surroundings(MP_NPROC="1", **({} if position else {name: value}))
    plan, _, problems = make_plan(typed, environ, dry_run=True)
    if plan is None:
        assert problems
        return
    seen = tmp_path / "seen"
    catcher = tmp_path / "catcher.sh"
    catcher.write_text(f"env -0 >{shlex.quote(str(seen))}.env; printf '%s\\0' \"$@\" >{shlex.quote(str(seen))}\n")
    monkeypatch.setattr(slurm, "script_of", lambda model: catcher)
    script = slurm.batch_script(plan, typed, environ)
    options = script.split("\n\n")[1].splitlines()  # sbatch reads them up to the first command
    assert all(re.match(r"#SBATCH (--|\S+$|\")", line) for line in options)
    assert name == "MP_SLURM_ARGS" or not any("--uid" in line for line in options)
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(["bash", "job.sh"], cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"]})
    assert seen.read_bytes().decode().split("\0")[:-1] == typed
    variables = dict(
        one.split("=", 1) for one in (tmp_path / "seen.env").read_bytes().decode().split("\0") if "=" in one
    )
    assert {key: variables.get(key) for key in environ} == environ
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("value", [value for value in HOSTILE if "\n" in value or "\r" in value or '"' in value])
@pytest.mark.parametrize("name", ["MP_SLURM_ACCOUNT", "MP_SLURM_PARTITION", "MP_SLURM_TIME"])
def test_what_no_sbatch_line_can_hold_is_refused(
    name: str, value: str, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """By name."""
    environ = surroundings(MP_NPROC="1", **{name: value})
    plan, _, problems = make_plan(values(ENV="slurm"), environ, dry_run=True)
    assert plan is None
    assert {problem.code for problem in problems if name in problem.names} <= {"control-characters", "slurm-path"}
    assert any(name in problem.names for problem in problems)


@pytest.mark.parametrize("value", ["--comment='x\n#SBATCH --uid=0'", "--comment='x\ntouch pwned'", "--comment='open"])
def test_more_options_of_sbatch_stay_words(
    value: str, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """A line end inside of quotation marks, and marks that are never closed."""
    environ = surroundings(MP_NPROC="1", MP_SLURM_ARGS=value)
    plan, _, problems = make_plan(values(ENV="slurm"), environ, dry_run=True)
    assert plan is None and problems[0].names == ("MP_SLURM_ARGS",)


def test_options_of_sbatch_with_white_space_stay_one_word(plan_of: Callable[..., Plan]) -> None:
    """In double quotes, as sbatch reads its own lines."""
    plan = plan_of(ENV="slurm", MP_NPROC="1", MP_SLURM_ARGS="--comment='a b #c' --qos=high")
    lines = slurm.batch_script(plan, [], {}).splitlines()
    assert '#SBATCH "--comment=a b #c"' in lines and "#SBATCH --qos=high" in lines


def expand(value: str) -> str:
    """What a pod's command or variable becomes where no variable is defined: `Expand` of Kubernetes, in Python."""
    out, at = "", 0
    while at < len(value):
        if value[at] == "$" and at + 1 < len(value):
            close = value.find(")", at)
            assert value[at + 1] == "$" or value[at + 1] != "(" or close < 0, f"{value!r} would be expanded"
            out, at = (out + "$", at + 2) if value[at + 1] == "$" else (out + value[at : at + 2], at + 2)
        else:
            out, at = out + value[at], at + 1
    return out


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", [name for name in FREE if not name.startswith("MP_K8S")])
def test_every_value_arrives_in_a_pod_as_it_is(
    name: str, value: str, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """Through YAML and Kubernetes' own expansion."""
    position = next((row.number for row in POSITIONS if row.name == name), None)
    typed = values(ENV="dlc", PR="bf16", **({name: value} if position else {}))
    pod = {"WORLD_SIZE": "1", "KUBERNETES_CONTAINER_RESOURCE_GPU": "1", "MP_DEVICE": "cuda", "MP_K8S_IMAGE": "a:1"}
    environ = surroundings(**pod, MP_K8S_NAME="job") | ({} if position else {name: value})
    plan, _, problems = make_plan(typed, environ, dry_run=False, emit=True)
    if plan is None:
        assert problems
        return
    first, second = yaml.safe_load_all(kubernetes.manifests(plan, typed, environ))
    container = first["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    for described in (container, second["spec"]["trainer"]):
        assert [expand(word) for word in described["command"]][-len(typed) :] == typed
        variables = {one["name"]: expand(one["value"]) for one in described["env"] if "value" in one}
        assert position or variables[name] == value
    assert json.dumps(first)


def test_a_text_is_one_line_of_utf_8() -> None:
    """Control characters of every kind, and bytes that are not text."""
    kind = text("expect-name")
    for mark in [*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029", "\udc80"]:
        with pytest.raises(ValueProblem):
            kind.parse(f"x{mark}y")
    assert kind.parse("x y é 模型 \u200dz") == "x y é 模型 \u200dz"


SCRIPTS = ("one_RTX3090_test.sh", "8B-A100_4_pretraining_initial_v2.sh", "8B-A100_4_pretraining_continue_v2.sh")


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_tanuki_calculates_with_numbers_only(script: str, shell: str, tmp_path: Path) -> None:
    """bash would run what stands in the index of an array; every wrong variable is named at once."""
    names = ("TRAIN_STEPS", "SEQ_LENGTH", "GLOBAL_BATCH_SIZE", "LR_WARMUP_STEPS")
    for value in ("a[$(touch pwned)]", "x=1", "PATH", "010", "1\n2", "\x1b[31m", "9" * 20, "-1", "1e3"):
        environ = {"PATH": os.environ["PATH"], **dict.fromkeys(names, value)}
        command = [shell, str(REPOSITORY / "examples" / "tanuki_8b" / script)]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert [line.split(":")[0] for line in done.stderr.splitlines()] == list(names)
        assert "\x1b" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_tanuki_refuses_a_product_that_no_shell_counts(tmp_path: Path) -> None:
    """It would wrap around to another number."""
    environ = {"PATH": os.environ["PATH"], "TRAIN_STEPS": "999999999", "GLOBAL_BATCH_SIZE": "999999999"}
    command = ["sh", str(REPOSITORY / "examples" / "tanuki_8b" / SCRIPTS[0])]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "too many tokens" in done.stderr
