"""What transformers can load of any path: a Hugging Face folder, or a Megatron checkpoint or adapter made one.

The one answer for evaluation, chat and generate. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from megatron_patch.checkpoint.configuration import Configuration, find_configuration
from megatron_patch.checkpoint.contents import look_for_megatron
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats.hf_folder import companions
from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.strict_json import read_json
from megatron_patch.common.terminal import raw

ROOT = Path(__file__).resolve().parents[2]
HARNESS = ROOT / "LM-Evaluation-Harness"
CACHE = HARNESS if HARNESS.is_dir() else Path.home() / ".cache" / "megatron-patch"
"""In a checkout, else (installed from a wheel) the user's own."""


class HFModelError(UserError, ValueError):
    """A path that transformers cannot be given."""

    status = 2
    """Exit status."""


class ExportFailed(HFModelError):
    """The path was fine, its export failed."""

    status = 1


@dataclass(frozen=True, kw_only=True)
class HFModel:
    """One checkpoint, ready for transformers."""

    given: str
    """As it was typed."""
    folder: Path
    """Hugging Face folder."""
    identity: str
    """SHA-256 that tells one content from another; of names, sizes and times where no manifest has better."""
    exported_from: Path | None = None
    """The Megatron iteration it was made from."""

    @property
    def label(self) -> str:
        """Short name for tables and charts."""
        source = self.exported_from or self.folder
        generic = source.name.startswith("iter_") or source.name in ("hf", "release", "checkpoints")
        parts = [p for p in source.absolute().parts if p != "checkpoints"]
        return "/".join(parts[-2:]) if generic else source.name


def hf_model_of(path: Path, hf_path: Path | None = None, cache: Path = CACHE, *, log: TextIO | None = None) -> HFModel:
    """Find out what a path is; a Megatron checkpoint is exported unless that was done before.

    Args:
        hf_path: configuration and tokenizer of a Megatron checkpoint, if they are not beside it; of adapters the base.
        cache: exported checkpoints lie below its `exported/`, one folder for each content.
        log: where it is said what is done; None is standard output.
    Raises:
        HFModelError: with the reason.
    """
    given = str(path)
    if (path / "adapter_config.json").is_file() or _trains_adapters(path):
        return _merged(path, hf_path, cache, log)
    if (path / "config.json").is_file() and _weights(path):
        return HFModel(given=given, folder=path.resolve(), identity=identity_of(path))
    try:
        iteration = look_for_megatron(path)
    except CheckpointError as error:
        raise HFModelError("hf-model-neither", given=given, error=error) from error
    try:
        configuration = find_configuration(iteration, hf_path)
    except CheckpointError as error:
        raise HFModelError("hf-model-configuration", error=error) from error
    identity = hashlib.sha256(f"{identity_of(iteration)} {_configuration_sum(configuration)}".encode()).hexdigest()
    target = cache / "exported" / f"{iteration.parent.parent.name}-{iteration.name}-{identity[:16]}"
    words = ["megatron_patch.checkpoint", "--direction", "mcore2hf", "--source", str(iteration)]
    words += ["--hf-path", str(hf_path)] if hf_path else []
    doing = Message("hf-model-exports", source=iteration, target=target)
    _make(target, words, doing, Message("hf-model-exported", given=given, target=target), log)
    return HFModel(given=given, folder=target, identity=identity, exported_from=iteration)


def _weights(folder: Path) -> list[Path]:
    return [file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern)]


def _trains_adapters(path: Path) -> bool:
    """Whether a path leads to checkpoints of adapters: lora.json names their base."""
    return any((folder / "lora.json").is_file() for folder in (path, path / "checkpoints", path.parent))


def _merged(path: Path, base: Path | None, cache: Path, log: TextIO | None) -> HFModel:
    """An adapter with its base, merged into one folder, unless that was done before."""
    folder = path if (path / "adapter_config.json").is_file() else _iteration(path)
    told = f"{identity_of(folder)} {identity_of(base) if base else ''}"
    identity = hashlib.sha256(told.encode()).hexdigest()
    target = cache / "exported" / f"{folder.parent.parent.name}-{folder.name}-merged-{identity[:16]}"
    words = ["megatron_patch.checkpoint.adapters", "merge", "--adapter", str(folder)]
    words += ["--base", str(base)] if base else []
    doing = Message("hf-model-merges", source=folder, target=target)
    _make(target, words, doing, Message("hf-model-merged", given=path, target=target), log)
    return HFModel(given=str(path), folder=target, identity=identity, exported_from=folder)


def _iteration(path: Path) -> Path:
    try:
        return look_for_megatron(path)
    except CheckpointError as error:
        raise HFModelError("hf-model-adapters", given=path, error=error) from error


def _make(target: Path, words: Sequence[str], doing: Message, done_before: Message, log: TextIO | None) -> None:
    """Have a program make a Hugging Face folder, unless it is there: as its own process, which sets torch's threads."""
    if target.is_dir():
        print(done_before.localized(), file=log)
        return
    print(doing.localized(), file=log, flush=True)
    command = [sys.executable, "-m", *words, "--output-path", str(target)]
    out = raw(log) if log else None
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, check=False)
    if done.returncode != 0:
        raise ExportFailed("hf-model-failed", doing=doing, status=done.returncode)


def identity_of(folder: Path) -> str:
    """SHA-256 over a folder's manifest of checksums, else over its files' names, sizes and times."""
    for name in ("manifest.json", "integrity.json"):
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    facts = [
        (file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _configuration_sum(configuration: Configuration) -> str:
    """Of the architecture and of what travels with it, such as the tokenizer."""
    told = json.dumps(configuration.config, sort_keys=True).encode()
    files = companions(configuration.companions)
    return hashlib.sha256(told + b"".join(file.read_bytes() for file in files)).hexdigest()


def remote_code(folder: Path) -> list[str]:
    """Python that `trust_remote_code` would run from a Hugging Face folder, one line a file; empty if none.

    Classes of other repositories, which would be downloaded, are listed as such.
    """
    lines = [
        localized("remote-code-file", file=file, bytes=file.stat().st_size, sha256=file_sha256(file))
        for file in sorted(folder.glob("**/*.py"))
    ]
    for name in ("config.json", "tokenizer_config.json"):
        for entry, target in _auto_map(folder / name).items():
            for one in target if isinstance(target, Sequence) and not isinstance(target, str) else [target]:
                lines += [localized("remote-code-maps", file=name, entry=entry, code=one)] if one else []
    return lines


def _auto_map(file: Path) -> dict[str, Any]:
    """Of a JSON file: which of its code transformers would run; empty if the file is missing or has none."""
    try:
        content = read_json(file) if file.is_file() else {}
        found = content.get("auto_map", {})
        return dict(found.items())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise HFModelError("hf-model-file", file=file, error=error) from error
