"""A run's folder (OUTPUT_BASEPATH): the names of what lies in it, and plan.json, read and written here alone.

plan.json says what was planned at the last start. It serves people and the tools around a run, never the training
itself: a damaged one must not keep a good checkpoint from being used. Standard library only.

Versions of plan.json: 1 (no `version` in it) has the model under `shape`, the chunks of a pipeline rank under
`layout.vp`, and MP_VP counts these chunks. 2 has `model`, `layout.chunks` and MP_VP_CHUNKS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.files import write_json
from megatron_patch.common.messages import Message, say
from megatron_patch.common.strict_json import read_json

PLAN = "plan.json"
COMMAND = "command.txt"
"""The command that the last start became, for a shell."""
METRICS = "metrics.jsonl"
LOSS_PLOT = "loss.svg"
STARTUP = "startup.json"
ENDED = "ended.json"
ASIDE = "damaged_"
"""Begins the new name of what was set aside."""
CHECKPOINTS = "checkpoints"
LOGS = "logs"
REPORTS = "data"
"""Checksums of the data, and rows that were not used."""
TENSORBOARD = "tensorboard"
CACHE = "cache"
HF = "hf"
"""The Hugging Face folder of MP_EXPORT_HF."""
ADAPTER = "adapter"
"""And that of a run that trains adapters: as Hugging Face's PEFT keeps them."""
EXPORTS = "exports"
"""Of MP_EXPORT_HF=every: a folder for each checkpoint; HF or ADAPTER is a link to the newest."""
SLURM = "slurm"
WANDB = "wandb"
PROFILE = "profile"
"""Traces and tables of MP_PROFILE."""

VERSION = 2


def rank_log(rank: int | str) -> str:
    """Name of a rank's log inside of LOGS."""
    return f"rank_{rank}.log"


def is_run(folder: Path) -> bool:
    """Whether a run has started here."""
    return any((folder / name).is_file() for name in (PLAN, METRICS))


PARTIAL_PREFIX = ".incomplete_"
"""Of a checkpoint's folder that is being written; nothing that looks for `iter_NNNNNNN` finds it."""


def remove_leftovers(checkpoints: Path) -> None:
    """Remove what a killed run was writing or removing; other names that begin alike are left alone."""
    import shutil  # 5 ms that no other start pays

    for leftover in checkpoints.glob(PARTIAL_PREFIX + "*"):
        ours = re.fullmatch(r"(old_)?(iter_[0-9]{7,}|release)", leftover.name.removeprefix(PARTIAL_PREFIX))
        if ours and leftover.is_symlink():  # what it leads to stays
            say("leftover-removed", path=leftover)
            leftover.unlink()
        elif ours and leftover.is_dir():
            say("leftover-removed", path=leftover)
            shutil.rmtree(leftover)


def set_misfits_aside(folder: Path) -> list[Message]:
    """Rename what bears a name of ours and is a folder instead of a file, or the other way round; a line for each.

    They keep no run from going on. `checkpoints` is left alone: a run does not begin anew where it may have had one.
    """
    files = [folder / name for name in (PLAN, COMMAND, METRICS, STARTUP, ENDED)]
    folders = [folder / name for name in (LOGS, TENSORBOARD, CACHE)]
    if (folder / LOGS).is_dir():
        files += [*(folder / LOGS).glob("rank_*.log"), *(folder / LOGS).glob("[lr]a*.lock")]
    wrong = [path for path in files if path.is_dir()]
    wrong += [path for path in folders if path.is_symlink() or path.exists() if not path.is_dir()]
    return [_set_aside(path) for path in wrong]


def _set_aside(path: Path) -> Message:
    number, aside = 1, path.with_name(f"{ASIDE}{path.name}")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{ASIDE}{path.name}_{number}")
    code = "misfit-folder" if path.is_dir() else "misfit-file"
    path.rename(aside)
    return Message(code, path=path, aside=aside.name)


class PlanError(UserError, ValueError):
    """A plan.json that cannot be read; the message names the file and what is wrong."""


Size = int
"""A whole number from 1 on."""


@dataclass(frozen=True, kw_only=True)
class PlannedLayout:
    """Which rank computes what."""

    nodes: Size
    processes: Size
    """Of each machine."""
    tp: Size
    pp: Size
    cp: Size
    dp: Size
    chunks: Size
    """Model chunks of each pipeline rank."""
    sequence_parallel: bool

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """TP, PP, CP, DP."""
        return self.tp, self.pp, self.cp, self.dp


@dataclass(frozen=True, kw_only=True)
class PlannedSchedule:
    """How long the run is, in iterations."""

    train_iters: int
    warmup_iters: int
    tokens_per_iteration: Size
    save_interval: int
    eval_interval: int
    eval_iters: int
    arithmetic: tuple[str, ...]
    """How the counts came about, in words."""


@dataclass(frozen=True, kw_only=True)
class PlannedTokenizer:
    """The tokenizer that a run was started with."""

    path: str
    ids: int
    """Highest token id + 1."""
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedGpu:
    """The GPU with the least memory."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """What the tools around a run read of plan.json, in today's names whatever version wrote it."""

    version: int
    model: Mapping[str, Any]
    """Fields of ModelConfig, for `model_from_dict`."""
    vocab_size: int
    """Rows of the embedding before padding."""
    vocab_rows: int | None = None
    """And after it."""
    values: Mapping[str, Any]
    """Parsed values by position and variable name; a text, a number, true, false or None each."""
    layout: PlannedLayout
    schedule: PlannedSchedule
    epochs: Mapping[str, Any] | None = None
    """Where a length was typed in epochs: `size`, the rows of one (under pretraining its tokens), and `asked`."""
    tokenizer: PlannedTokenizer
    device: str
    """`cuda` or `cpu`."""
    precision: Mapping[str, Any] = field(default_factory=dict)
    """Fields of Precision: bytes of weights, gradients and the optimizer's state."""
    offload_fraction: float = 0.0
    """Part of the optimizer's state that lives in RAM."""
    gpu: PlannedGpu | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the fullest rank, by component."""
    memory_limit: int | None = None
    """Bytes that a rank may take."""
    vp_counts_chunks: bool = False
    """The run was started when MP_VP counted chunks: its command goes on meaning that."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def write_plan(folder: Path, content: Mapping[str, Any]) -> None:
    """Write plan.json, whole or not at all.

    Args:
        content: what PlanRecord has, and whatever else is worth keeping.
    Raises:
        OSError: it cannot be written.
    """
    write_json(folder / PLAN, {"version": VERSION, **content})


def read_plan(folder: Path) -> PlanRecord | None:
    """Read the plan.json of a run; None where there is none.

    Raises:
        PlanError: it is there and cannot be used.
    """
    content = load_plan(folder)
    try:
        return None if content is None else parse_plan(content)
    except ValueError as error:
        raise PlanError("not-used", path=folder / PLAN, error=error) from error


def load_plan(folder: Path) -> dict[str, Any] | None:
    """The content of a plan.json in today's names, its values not looked at; None where there is none.

    Raises:
        PlanError: it is not a JSON object.
    """
    path = folder / PLAN
    try:
        return in_todays_names(read_json(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError("not-used", path=path, error=error if str(error) else type(error).__name__) from error


def parse_plan(content: dict[str, Any]) -> PlanRecord:
    """A plan from the content of its file, in today's names.

    Raises:
        PlanError: naming what is missing or of another type.
    """
    _check(content.get("values"), "Mapping[str, Any]", "values")
    for name, kind in READ_VALUES.items():
        _check(content["values"].get(name), kind, f"values.{name}")
    record: PlanRecord = _take(PlanRecord, content, "")
    return record


READ_VALUES = {
    "LR": "float",
    "MIN_LR": "float",
    "PR": "str",
    "SFT": "bool",
    "DO": "bool",
    "SEQ_LEN": "int",
    "GLOBAL_BATCH_SIZE": "int",
    "DATASET_PATH": "str",
    "PRETRAIN_CHECKPOINT_PATH": "str",
}
"""Values that are read by name somewhere, and their types."""


def in_todays_names(file: Any) -> dict[str, Any]:
    """The content of any version, in the names of this one.

    Raises:
        PlanError: it is not an object, or of a later version.
    """
    content: dict[str, Any] = dict(_check(file, "Mapping[str, Any]", Message("plan-the-file")))
    version = _check(content.setdefault("version", 1), "int", "version")
    if version > VERSION:
        raise PlanError("plan-version", version=version, known=VERSION)
    if version > 1:
        return content
    content["vp_counts_chunks"] = True
    values, layout = content.get("values"), content.get("layout")
    if isinstance(layout, dict) and "vp" in layout:
        layout["chunks"] = layout.pop("vp")
    if isinstance(values, dict) and "MP_VP" in values:
        chunks = values.pop("MP_VP")
        values["MP_VP_CHUNKS"] = None if chunks == 1 else chunks
        if values.get("MP_EVAL_ITERS") == 10:  # the default, then
            values["MP_EVAL_ITERS"] = None
    if "shape" in content:
        content["model"] = content.pop("shape")
    return content


def _take(kind: type[Any], content: Mapping[str, Any], where: str) -> Any:
    """An object of a dataclass from a JSON object; keys that it has no field for are left alone."""
    taken: dict[str, Any] = {}
    for row in fields(kind):
        name, declared = f"{where}{row.name}", str(row.type)
        if row.name not in content and (row.default, row.default_factory) != (MISSING, MISSING):
            continue
        value = content.get(row.name)
        base = declared.removesuffix(" | None")
        if value is None and base != declared:
            taken[row.name] = None
        elif base in PARTS:
            taken[row.name] = _take(PARTS[base], _mapping(value, name), f"{name}.")
        else:
            taken[row.name] = _check(value, base, name)
    return kind(**taken)


PARTS = {kind.__name__: kind for kind in (PlannedLayout, PlannedSchedule, PlannedTokenizer, PlannedGpu)}


def _check(value: Any, kind: str, name: str | Message) -> Any:
    """The value if it is of a type as the dataclasses spell it; numbers are finite."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
    right = {
        "int": number and isinstance(value, int),
        "Size": number and isinstance(value, int) and value >= 1,
        "float": number,
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
        "tuple[str, ...]": isinstance(value, list) and all(isinstance(one, str) for one in value),
        "Mapping[str, Any]": isinstance(value, dict),
        "Mapping[str, int]": isinstance(value, dict) and all(type(one) is int for one in value.values()),
    }
    if not right[kind]:
        code = "plan-value-missing" if value is None else "plan-value"
        shown = {} if value is None else {"found": repr(str(value)[:60])}
        raise PlanError(code, name=name, wanted=Message(WORDS[kind]), **shown)
    return tuple(value) if isinstance(value, list) else value


WORDS = {
    "int": "kind-int",
    "Size": "kind-size",
    "float": "kind-float",
    "str": "kind-str",
    "bool": "kind-bool",
    "tuple[str, ...]": "kind-texts",
    "Mapping[str, Any]": "kind-object",
    "Mapping[str, int]": "kind-numbers",
}
"""Codes of what a value is, by its type."""


def _mapping(value: Any, name: str) -> dict[str, Any]:
    mapping: dict[str, Any] = _check(value, "Mapping[str, Any]", name)
    return mapping
