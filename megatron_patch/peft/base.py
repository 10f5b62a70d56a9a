"""Which base a run's adapters belong to: named with its checksum beside the checkpoints, and compared at a resume.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.errors import UserError
from megatron_patch.common.files import write_json
from megatron_patch.common.strict_json import read_object
from megatron_patch.peft.settings import FIXED, LoraSettings, settings_from

FILE = "lora.json"
"""In the folder of a run's checkpoints: the settings, the base's path and SHA-256."""
SUFFIXES = (".safetensors", ".distcp")


class BaseProblem(UserError, ValueError):
    """Adapters of another base, or none known."""


def base_sha256(folder: Path) -> str:
    """Over names and SHA-256 of all files of weights; 8 threads, as fast as the disk reads."""
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(file_sha256, files))
    lines = [f"{file.name} {found}" for file, found in zip(files, sums, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def record_base(checkpoints: Path, settings: LoraSettings, base: Path, *, resuming: bool) -> None:
    """Write lora.json on a first start; compare with it on a resume, and keep where the base lies now.

    One rank does it.

    Raises:
        BaseProblem: another base, other adapters, or lora.json is missing.
    """
    told = {"settings": asdict(settings), "base": str(base), "base_sha256": base_sha256(base)}
    told = json.loads(json.dumps(told))
    if not resuming:
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(checkpoints / FILE, told, durable=True)
        return
    before = read_record(checkpoints)
    if before["base_sha256"] != told["base_sha256"]:
        sums = {"before": before["base_sha256"][:16], "now": told["base_sha256"][:16]}
        raise BaseProblem.at(base, "base-other", base=before["base"], **sums)
    trained = settings_of_record(before)
    for name in FIXED:
        old, now = getattr(trained, name), getattr(settings, name)
        if old != now:
            raise BaseProblem.at(checkpoints, "adapters-other-setting", name=name, before=old, now=now)
    if before["base"] != told["base"]:  # moved: whoever merges the adapters looks for it where it lies now
        write_json(checkpoints / FILE, {**before, "base": told["base"]}, durable=True)


def read_record(checkpoints: Path) -> dict[str, Any]:
    """lora.json.

    Raises:
        BaseProblem: missing or damaged.
    """
    if checkpoints.is_dir() and not (checkpoints / FILE).exists():
        raise BaseProblem.at(checkpoints, "no-adapters", file=FILE)
    try:
        found: dict[str, Any] = read_object(checkpoints / FILE)
        settings_from(found["settings"])
        found["base"], found["base_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseProblem.at(checkpoints / FILE, "adapters-record", error=error) from error
    return found


def settings_of_record(record: dict[str, Any]) -> LoraSettings:
    """The settings in lora.json."""
    return settings_from(record["settings"])
