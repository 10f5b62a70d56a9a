"""What a path holds: the one answer that driver, converter and evaluation share. Imports no torch and no numpy.

Paths are made absolute, and links are followed only where the name of a folder matters and the link's does not do: a
file of a Hugging Face cache is a link into `blobs/`, where neither its name nor its neighbours are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.files import real_path
from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import read_json
from megatron_patch.models import ConfigError, model_from_dict, model_to_hf_config, read_json_config
from megatron_patch.runs.folder import CHECKPOINTS, PLAN, PlanError, read_plan
from megatron_patch.runs.stored_chunks import find_structural_damage, iteration_of

INDEX, SINGLE_FILE = "model.safetensors.index.json", "model.safetensors"
RELEASE, TRACKER = "release", "latest_checkpointed_iteration.txt"
PER_RANK_FILE = "model_optim_rng.pt"
"""Of Megatron's old format: one in each `mp_rank_XX_YYY`."""
HUGGING_FACE, TORCH_DIST, PER_RANK = "hugging face", "torch_dist", "per rank"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Weights that a path leads to."""

    kind: str
    """HUGGING_FACE, TORCH_DIST or PER_RANK."""
    path: Path
    """The folder of the weights, absolute: of Hugging Face's files, or of one iteration."""
    tracked: bool = False
    """The tracker beside the iteration names it."""

    @property
    def root(self) -> Path:
        """Of an iteration: the folder of the tracker and of the other iterations."""
        return self.path.parent

    @property
    def iteration(self) -> int | None:
        """What Megatron's name of the folder says; None for `release`, and for names that are not Megatron's."""
        return number_of(self.path.name)


BELOW = ("*", "checkpoint/*")
"""Where other layouts of a run's folder have checkpoints; the second is Pai-Megatron-Patch's."""


HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""A repository on the Hugging Face hub; a relative path of two folders looks the same."""


def look(path: str | Path, iteration: int | None = None) -> Contents:
    """Find out what a path holds: a Hugging Face folder, an iteration, a folder of iterations, or a run's output.

    Of several iterations it is the one that the tracker names; where there is no tracker, the newest whole one.

    Args:
        iteration: another than that.
    Raises:
        CheckpointError: nothing there, or something else, or not all of it; says what was found.
    """
    folder = Path(os.path.abspath(path))  # noqa: PTH100  # Path.absolute keeps `..`
    if not folder.exists():
        if HUB_NAME.fullmatch(str(path)):
            raise CheckpointError.at(path, "no-such-folder-hub", path=path)
        raise CheckpointError.at(path, "no-such-folder")
    if not folder.is_dir():
        raise CheckpointError.at(path, "file-of-nemo" if folder.suffix == ".nemo" else "file-not-folder")
    if nemo := _nemos(folder):
        raise CheckpointError.at(path, "checkpoint-nemo", folder=nemo)
    if iteration is None and _holds_iteration(folder):
        return _one_iteration(folder)
    for root in (folder, folder / CHECKPOINTS):
        if (root / TRACKER).is_file() or iterations(root) or _holds_iteration(root / RELEASE):
            return _one_of(root, iteration)
    if (folder / "config.json").is_file() or any(folder.glob("*.safetensors*")):
        _check_hugging_face(folder)
        return Contents(kind=HUGGING_FACE, path=folder)
    if (folder / PLAN).is_file():
        raise CheckpointError.at(path, "run-without-checkpoint")
    found = sorted(entry.name for entry in folder.iterdir())
    below = sorted(str(tracker.parent) for place in BELOW for tracker in folder.glob(f"{place}/{TRACKER}"))
    if below:
        raise CheckpointError.at(path, "checkpoint-below", below=below[:3])
    if len(found) > 6:
        raise CheckpointError.at(path, "no-checkpoint-more", found=found[:6], more=len(found) - 6)
    if found:
        raise CheckpointError.at(path, "no-checkpoint", found=found)
    raise CheckpointError.at(path, "no-checkpoint-empty")


def _nemos(folder: Path) -> Path | None:
    """The checkpoint of NeMo 2 that a folder is, or is the `weights` of."""
    return next((one for one in (folder, folder.parent) if _is_nemos(one) and folder in (one, one / "weights")), None)


def _is_nemos(folder: Path) -> bool:
    return (folder / "context").is_dir() and (folder / "weights").is_dir()


def look_for_megatron(path: str | Path, iteration: int | None = None) -> Path:
    """The folder of one iteration that a path leads to.

    Raises:
        CheckpointError: there is none.
    """
    found = look(path, iteration)
    if found.kind == HUGGING_FACE:
        raise CheckpointError.at(path, "not-megatron")
    return found.path


def is_megatron(path: Path) -> bool:
    """Whether a path looks like a Megatron checkpoint, whole or not."""
    roots = (path, path / CHECKPOINTS)
    return _holds_iteration(path) or any((root / TRACKER).is_file() or iterations(root) for root in roots)


def iterations(folder: Path) -> list[int]:
    """Iterations of the iter_NNNNNNN folders, whole or not, ascending."""
    names = (number_of(entry.name) for entry in folder.iterdir()) if folder.is_dir() else ()
    return sorted(number for number in names if number is not None)


def iteration_folder(root: Path, iteration: int) -> Path:
    """Megatron's name for the checkpoint of one iteration."""
    return root / f"iter_{iteration:07d}"


def number_of(name: str) -> int | None:
    """The iteration that a folder's name says, None if it is not Megatron's."""
    return iteration_of(Path(name))


def is_per_rank(folder: Path) -> bool:
    """Whether a folder is an iteration in Megatron's old format."""
    return any(folder.glob(f"mp_rank_*/{PER_RANK_FILE}"))


def is_complete(folder: Path) -> bool:
    """Whether a torch_dist checkpoint is whole, as far as that can be seen without reading its tensors."""
    return not find_structural_damage(folder)


def read_tracker(root: Path) -> str | None:
    """What the tracker says, None if there is none."""
    try:
        return (root / TRACKER).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _holds_iteration(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("metadata.json", ".metadata")) or any(folder.glob("mp_rank_*"))


def _one_iteration(folder: Path) -> Contents:
    known = folder.name == RELEASE or number_of(folder.name) is not None
    target = folder if known else real_path(folder)  # a link called `latest`: Megatron needs the name behind it
    if target.name != RELEASE and number_of(target.name) is None:
        target = folder
    tracked = read_tracker(target.parent) in (target.name, str(number_of(target.name)))
    if is_per_rank(target):
        return Contents(kind=PER_RANK, path=target, tracked=tracked)
    if not is_complete(target):
        _check_backend(target)
        raise CheckpointError.at(target, "checkpoint-torn")
    return Contents(kind=TORCH_DIST, path=target, tracked=tracked)


def _one_of(root: Path, iteration: int | None) -> Contents:
    """The iteration that is asked for, that the tracker names, or the newest whole one."""
    said = read_tracker(root)
    usable = [step for step in iterations(root) if _is_usable(iteration_folder(root, step))]
    if iteration is not None:
        target = iteration_folder(root, iteration)
    elif said is not None:
        if said != RELEASE and not said.isdigit():
            raise CheckpointError.at(root, "tracker-wrong", pointed=repr(said))
        target = root / RELEASE if said == RELEASE else iteration_folder(root, int(said))
    elif usable:  # killed between the checkpoint and its tracker
        target = iteration_folder(root, usable[-1])
    else:
        target = root / RELEASE
    if not _is_usable(target):
        _check_backend(target)
        whole = [*map(str, usable), *([RELEASE] if _is_usable(root / RELEASE) else [])]
        code = UNUSABLE[iteration is None and bool(said), target.exists()]
        raise CheckpointError.at(root, code, folder=target.name, others=whole or Message("none"))
    tracked = said is not None and said in (target.name, str(number_of(target.name)))
    return Contents(kind=PER_RANK if is_per_rank(target) else TORCH_DIST, path=target, tracked=tracked)


def _check_backend(iteration: Path) -> None:
    """Megatron writes several formats, and says which in metadata.json.

    Raises:
        CheckpointError: another one than torch_dist.
    """
    try:
        backend = read_json(iteration / "metadata.json").get("sharded_backend")
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    if isinstance(backend, str) and backend != TORCH_DIST:
        raise CheckpointError.at(iteration, "checkpoint-backend", backend=repr(backend))


UNUSABLE = {
    (True, True): "tracker-unfinished",
    (True, False): "tracker-absent",
    (False, True): "checkpoint-unfinished",
    (False, False): "checkpoint-absent",
}
"""By whether the tracker points there, and whether something lies there."""


def _is_usable(folder: Path) -> bool:
    return is_per_rank(folder) or is_complete(folder)


def _check_hugging_face(folder: Path) -> None:
    """That the configuration can be read, and that the weights are there, by their names."""
    index = folder / INDEX
    if not (folder / "config.json").is_file():
        raise CheckpointError.at(folder, "config-missing")
    read_config(folder)
    if index.is_file():
        try:
            table = read_json(index)["weight_map"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError.at(index, "index-unreadable", error=error) from None
        shards = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
        missing = [name for name in shards if not (folder / name).is_file()]
        if not shards:
            raise CheckpointError.at(folder, "index-names-no-shard")
        if (folder / SINGLE_FILE).is_file() and SINGLE_FILE not in shards:
            raise CheckpointError.at(folder, "index-beside-single")
        if missing:
            counts = {"missing": len(missing), "shards": len(shards)}
            raise CheckpointError.at(folder, "shards-missing", **counts, names=missing[:3])
    elif not (folder / SINGLE_FILE).is_file():
        pickles = any(folder.glob("*.bin"))
        raise CheckpointError.at(folder, "config-and-pickles" if pickles else "config-without-weights")


@dataclass(frozen=True, kw_only=True)
class OwnConfig:
    """The configuration that lies with an iteration."""

    config: Mapping[str, Any]
    """As `config.json` says it."""
    origin: Path
    """The file that it comes from."""
    home: Path
    """The folder in which tokenizer and chat template may lie."""


class DamagedPlan(CheckpointError):
    """A plan.json that cannot be read: it says nothing, and speaks against no checkpoint."""


def own_config(iteration: Path) -> OwnConfig | None:
    """What lies with an iteration: its config.json, that of the two folders above it, or its run's plan.

    Raises:
        CheckpointError: it is not a configuration.
        DamagedPlan: a run's plan is all there is, and cannot be read.
    """
    for folder in (iteration, iteration.parent, iteration.parent.parent):
        if (folder / "config.json").is_file():
            return OwnConfig(config=read_config(folder), origin=folder / "config.json", home=folder)
    run = iteration.parent.parent
    try:
        plan = read_plan(run)
        if plan is None:
            return None
        config = model_to_hf_config(model_from_dict(plan.model), dtype="bfloat16", vocab_size=plan.vocab_size)
    except (PlanError, KeyError, TypeError) as error:
        raise DamagedPlan.at(run / PLAN, "plan-without-model", error=error) from None
    return OwnConfig(config=config, origin=run / PLAN, home=Path(plan.tokenizer.path))


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder.

    Raises:
        CheckpointError: absent or not a JSON object.
    """
    try:
        return read_json_config(folder)
    except ConfigError as error:
        raise CheckpointError.of(error.messages) from None
