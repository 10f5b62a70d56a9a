"""PRETRAIN_CHECKPOINT_PATH and what it holds, and which checkpoints on disk are whole; told apart without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.models import model_of_facts, model_to_hf_config

TRACKER = "latest_checkpointed_iteration.txt"
EXPECTED = (
    "`none`, a Hugging Face folder (config.json and *.safetensors), a Megatron folder "
    f"({TRACKER} and iter_NNNNNNN/ or release/), one iter_NNNNNNN/ of it, or the OUTPUT_BASEPATH of an earlier run"
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where a run's first weights come from."""

    kind: str
    """`none` (random), `hf` (safetensors) or `mcore` (torch_dist)."""
    path: str = ""
    """The folder that `--hf-checkpoint` or `--load` gets, absolute; empty for `none`."""
    step: int | None = None
    """mcore: the iteration to load; None leaves it to the tracker, which says `release` or 0."""
    config: Mapping[str, Any] | None = None
    """config.json, or what an earlier run's plan.json says in its words; None where there is neither."""
    homes: tuple[str, ...] = ()
    """Folders in which the tokenizer may lie."""


class WeightsError(ValueError):
    """A path that is no checkpoint we can start from: what was found, and what was expected."""


def read_weights(path: str) -> Weights:
    """Recognise PRETRAIN_CHECKPOINT_PATH.

    Raises:
        WeightsError: nothing there, or something else.
    """
    if path == "none":
        return Weights(kind="none")
    folder = Path(path)
    if not folder.exists():
        raise WeightsError("no such folder")
    if not folder.is_dir():
        raise WeightsError("a file, not a folder")
    folder = folder.resolve()
    if (folder / "metadata.json").is_file() or (folder / ".metadata").is_file():
        return _one_iteration(folder)
    if (folder / TRACKER).is_file() or iterations(folder):
        return _megatron(folder)
    if (folder / "checkpoints" / TRACKER).is_file() or iterations(folder / "checkpoints"):
        return _megatron(folder / "checkpoints")
    if any(folder.glob("*.safetensors*")) or (folder / "config.json").is_file():
        return _hugging_face(folder)
    found = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
    raise WeightsError(f"no checkpoint: it holds {shown or 'nothing'}")


def iterations(folder: Path) -> list[int]:
    """Iterations of the iter_NNNNNNN folders, whole or not, ascending."""
    names = (re.fullmatch(r"iter_(\d{7,})", entry.name) for entry in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name.group(1)) for name in names if name)


def iteration_folder(folder: Path, iteration: int) -> Path:
    """Megatron's name for the checkpoint of one iteration."""
    return folder / f"iter_{iteration:07d}"


def is_complete(folder: Path) -> bool:
    """Whether a torch_dist checkpoint was written to its end.

    megatron-core 0.19.2 writes the tensors, then `.metadata`, and `metadata.json` last and in place: a save that was
    killed leaves the last one out, or cut. (`common.pt` is no longer written.)
    """
    try:
        described = json.loads((folder / "metadata.json").read_text())
        whole = isinstance(described, dict) and "sharded_backend" in described
        return whole and (folder / ".metadata").stat().st_size > 0 and any(folder.glob("*.distcp"))
    except (OSError, ValueError):
        return False


def _hugging_face(folder: Path) -> Weights:
    config = _read_json(folder / "config.json")
    if config is None:
        raise WeightsError("safetensors without a config.json")
    index = _read_json(folder / "model.safetensors.index.json")
    if index is not None:
        table = index.get("weight_map")
        shards = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing or not shards:
            what = f"{len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:3])}"
            raise WeightsError(what if shards else "model.safetensors.index.json names no shard")
    elif not (folder / "model.safetensors").is_file():
        pickles = any(folder.glob("*.bin"))
        found = "pickled *.bin weights, which may run code: save them as safetensors" if pickles else "no weights"
        raise WeightsError(f"config.json, but {found}")
    return Weights(kind="hf", path=str(folder), config=config, homes=(str(folder),))


def _one_iteration(folder: Path) -> Weights:
    if not is_complete(folder):
        raise WeightsError("a torch_dist checkpoint that was not written to its end")
    name = re.fullmatch(r"iter_(\d{7,})", folder.name)
    if name and int(name.group(1)) > 0:
        return _mcore(folder.parent, int(name.group(1)), folder)
    # Megatron finds release/ and iter_0000000/ only through the tracker beside them: --ckpt-step 0 counts as unset.
    pointed = "release" if folder.name == "release" else "0" if name else None
    if pointed is None:
        raise WeightsError("a torch_dist checkpoint not called iter_NNNNNNN or release, as Megatron's loader asks")
    if _tracker(folder.parent) != pointed:
        raise WeightsError(f"Megatron loads {folder.name} only if ../{TRACKER} says {pointed}")
    return _mcore(folder.parent, None, folder)


def _megatron(folder: Path) -> Weights:
    pointed = _tracker(folder)
    whole = [step for step in iterations(folder) if is_complete(iteration_folder(folder, step))]
    if pointed is None and whole and whole[-1] > 0:  # killed between the checkpoint and its tracker
        return _mcore(folder, whole[-1], iteration_folder(folder, whole[-1]))
    if pointed is None or not (pointed == "release" or pointed.isdigit()):
        raise WeightsError(f"{TRACKER} says {pointed!r}" if pointed is not None else f"no {TRACKER}")
    target = folder / "release" if pointed == "release" else iteration_folder(folder, int(pointed))
    if (target / "mp_rank_00").is_dir() or any(target.glob("mp_rank_*")):
        raise WeightsError(
            f"{target.name} is in Megatron's old per-rank format: convert it to torch_dist, with "
            "hf2mcore_convertor_llama3_1.sh --direction mcore2mcore"
        )
    if not is_complete(target):
        state = "was not written to its end" if target.exists() else "does not exist"
        others = f"; whole: {', '.join(map(str, whole))}" if whole else ""
        raise WeightsError(f"{TRACKER} points to {target.name}, which {state}{others}")
    step = None if pointed == "release" or int(pointed) == 0 else int(pointed)
    return _mcore(folder, step, target)


def _mcore(folder: Path, step: int | None, target: Path) -> Weights:
    homes = [str(folder), str(target)]
    configs = (_read_json(home / "config.json") for home in (folder, target))
    config = next((config for config in configs if config is not None), None)
    plan = _read_json(folder.parent / "plan.json") if folder.name == "checkpoints" else None
    if plan is not None:
        try:
            homes.append(plan["tokenizer"]["path"])
            config = config or _config_of_plan(plan)
        except (KeyError, TypeError) as error:
            raise WeightsError(f"plan.json beside checkpoints/ is not a plan: {error}") from error
    return Weights(kind="mcore", path=str(folder), step=step, config=config, homes=tuple(homes))


def _config_of_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The geometry of an earlier run of ours, as a config.json says it."""
    return model_to_hf_config(model_of_facts(plan["shape"]), dtype="bfloat16", vocab_size=plan["vocab_size"])


def _tracker(folder: Path) -> str | None:
    try:
        return (folder / TRACKER).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file.

    Raises:
        WeightsError: the file is there and is not a JSON object.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path.name} is not a JSON object")
    return content
