"""What has to be the same on every machine of a run: the plan, the code, the packages."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from megatron_patch.common.values import shown
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.plan import Plan, values_of
from megatron_patch.launch.problems import label

PACKAGES = (
    "torch",
    "megatron-core",
    "transformer-engine",
    "transformer-engine-cu12",
    "transformer-engine-cu13",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "numpy",
)
"""Those that take part in a step, or in what it reads."""


def identity(plan: Plan) -> dict[str, Any]:
    """Everything that two machines compare, as JSON carries it."""
    data = (*plan.train_data, *(plan.valid_data or ()))
    facts = {
        "values": {label(name): value for name, value in values_of(plan).items()},
        "flags": megatron_argv(plan),
        "machines": plan.layout.nodes,
        "processes of each machine": plan.layout.processes,
        "tokens of the data": {one.path: one.tokens for one in data},
        "checkpoint to resume from": plan.resume_iteration,
    }
    carried: dict[str, Any] = json.loads(json.dumps(facts))  # tuples become lists here as they do on the way
    return carried | {"plan": _digest(carried), "code": code_digest(), "packages": packages()}


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """SHA-256 over the names and contents of every Python file that a run may execute."""
    digest = hashlib.sha256()
    for folder in ("megatron_patch", "examples"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def packages() -> dict[str, str]:
    """Versions of Python and of what takes part in a step."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """What is not the same, `WHAT is THEIRS there, MINE here` each; nothing if all is."""
    if theirs.get("plan") != mine["plan"]:
        lines = [*_plan_differences(mine, theirs)]
        yield from lines or ["the plans differ"]
    if theirs.get("code") != mine["code"]:
        yield f"the project's code is another: {str(theirs.get('code'))[:12]} there, {mine['code'][:12]} here"
    yield from _compare(mine["packages"], theirs.get("packages", {}))


def _plan_differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    values = [*_compare(mine["values"], theirs.get("values", {}))]
    yield from values
    keys = ("machines", "processes of each machine", "checkpoint to resume from")
    others = [
        *_compare({key: mine[key] for key in keys}, {key: theirs.get(key) for key in keys}),
        *_compare(mine["tokens of the data"], theirs.get("tokens of the data", {})),
    ]
    yield from others
    if not values and not others:
        here, there = set(mine["flags"]), set(theirs.get("flags", []))
        yield f"flags: {' '.join(sorted(there - here)) or 'none more'} there, {' '.join(sorted(here - there))} here"


def _compare(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            yield f"{key} is {_shown(theirs.get(key))} there, {_shown(mine.get(key))} here"


def _shown(value: object) -> str:
    return "absent" if value is None else shown(value)
