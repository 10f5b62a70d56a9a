"""Adapters of a run as Hugging Face's PEFT keeps them, and merged into their base:

megatron-patch adapters export --adapter RUN --output-path FOLDER
megatron-patch adapters merge --adapter RUN_OR_PEFT --output-path FOLDER [--base BASE] [--check]
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from megatron_patch.checkpoint.base_weights import Base, open_base
from megatron_patch.checkpoint.chat_files import add_chat_files
from megatron_patch.checkpoint.contents import look_for_megatron
from megatron_patch.checkpoint.converter.job import AS_TYPED
from megatron_patch.checkpoint.errors import CheckpointError, sizes
from megatron_patch.checkpoint.formats.hf_folder import copy_companions
from megatron_patch.checkpoint.formats.hf_writer import write_safetensors
from megatron_patch.checkpoint.formats.sources import BlockMaker, Source
from megatron_patch.checkpoint.formats.torch_dist import TORCH_DTYPES, TorchDistReader
from megatron_patch.checkpoint.manifest import default_workers
from megatron_patch.checkpoint.store import check_target, staged
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError, print_error
from megatron_patch.common.messages import Message, at, localized, say
from megatron_patch.common.progress import WorkBar
from megatron_patch.common.spread import Relay
from megatron_patch.common.strict_json import read_object
from megatron_patch.common.terminal import guard
from megatron_patch.models import ModelConfig
from megatron_patch.peft.base import base_sha256, read_record, settings_of_record
from megatron_patch.peft.folder import CONFIG, other_base, read_folder, settings_of, write_folder
from megatron_patch.peft.settings import LINEARS, SUFFIX, LoraSettings, module_name, of_layer, target_shapes

if TYPE_CHECKING:
    from megatron_patch.peft.settings import Whole


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Adapters of every layer in fp32, and the base that they belong to."""

    settings: LoraSettings
    whole: Whole
    base: Path
    base_sha256: str
    """Of the weights that they were trained over; empty where nobody wrote it down (PEFT does not)."""
    source: str
    """`iter_0000020`, or a folder's name."""
    run: Path
    """Where the run lies that trained them, if one did."""


def read_adapter(path: Path, base: Path | None = None, *, every_layer: bool = False) -> Adapter:
    """Read the adapters of a run (its output folder, `checkpoints` or one iteration) or of a folder of PEFT.

    Args:
        base: another place of the base than the one that is written down.
        every_layer: a folder of PEFT has an adapter of its matrices in every layer, as what is exported.
    Raises:
        CheckpointError, PeftError, BaseProblem: there are none, or they are damaged.
    """
    if (path / CONFIG).is_file():
        told = base or _still_there(Path(_base_name(path)))
        model = open_base(told).model
        return Adapter(
            settings=settings_of(path),
            whole=read_folder(path, model, every_layer=every_layer),
            base=told,
            base_sha256="",
            source=path.name,
            run=path.parent,
        )
    iteration = look_for_megatron(path)
    record = read_record(iteration.parent)
    settings = settings_of_record(record)
    return Adapter(
        settings=settings,
        whole=_read_iteration(iteration, settings),
        base=base or Path(record["base"]),
        base_sha256=record["base_sha256"],
        source=iteration.name,
        run=iteration.parent.parent,
    )


def _still_there(base: Path) -> Path:
    """
    Raises:
        CheckpointError: the base has gone, or been moved.
    """
    if not base.is_dir():
        raise CheckpointError.at(base, "base-gone")
    return base


def _base_name(folder: Path) -> str:
    return str(read_object(folder / CONFIG).get("base_model_name_or_path") or ".")


def _read_iteration(iteration: Path, settings: LoraSettings) -> Whole:
    reader = TorchDistReader(iteration)
    found: Whole = {}
    for linear in LINEARS:
        for target in (target for target in linear.targets if target in settings.targets):
            a, b = (f"decoder.layers.{linear.path}{SUFFIX}.{part}.{target}" for part in "ab")
            for layer in _layers_of(reader, a):
                found.setdefault(layer, {})[target] = (_read(reader, a, layer), _read(reader, b, layer))
    return found


def _layers_of(reader: TorchDistReader, name: str) -> range:
    """Layers of which the checkpoint has this tensor: in one, or each in one of its own."""
    if name in reader.shapes:
        return range(reader.shapes[name][0])
    count = next(layer for layer in itertools.count() if of_layer(name, layer) not in reader.shapes)
    if not count:
        raise CheckpointError.at(reader.folder, "adapters-missing", tensor=name)
    return range(count)


def _read(reader: TorchDistReader, name: str, layer: int) -> torch.Tensor:
    within = name in reader.shapes
    stored = name if within else of_layer(name, layer)
    if stored not in reader.shapes:
        raise CheckpointError.at(reader.folder, "adapters-missing", tensor=stored)
    out = torch.empty(reader.shapes[stored][1 if within else 0 :], dtype=TORCH_DTYPES[reader.element_type(stored)])
    reader.read_rows(stored, layer if within else None, 0, out)
    return out.float()


def export_adapter(run: Path, target: Path, *, overwrite: bool = False) -> None:
    """Write the adapters of a run as a folder that `peft.PeftModel.from_pretrained` loads over the base.

    Raises:
        CheckpointError: the folder is there already; or what `read_adapter` raises.
    """
    adapter = read_adapter(run, every_layer=True)
    if problems := check_target(target, overwrite=overwrite, sources=[run]):
        raise CheckpointError.of(problems)
    facts = {"format": "peft", "source": adapter.source, "base_sha256": adapter.base_sha256}
    with staged(target, facts) as stage:
        write_folder(stage.path, adapter.settings, adapter.whole, str(adapter.base))


class MergedSource(Source):
    """A base whose adapted matrices read as W + scale B A: summed in fp32, rounded once to the base's type."""

    def __init__(self, base: Source, adapter: Adapter) -> None:
        self._base = base
        self._pairs = {
            f"{module_name(layer, target)}.weight": (*pair, adapter.settings.scale_of(layer, target))
            for layer, targets in adapter.whole.items()
            for target, pair in targets.items()
        }

    def element_type(self, name: str) -> str:
        """The base's."""
        return self._base.element_type(name)

    def read_rows(self, name: str, layer: int | None, start: int, out: torch.Tensor) -> None:
        """Fill `out`."""
        self._base.read_rows(name, layer, start, out)
        if name in self._pairs:
            a, b, scale = self._pairs[name]
            out.copy_(torch.addmm(out.float(), b[start : start + out.shape[0]], a, alpha=scale))


def merge(path: Path, target: Path, *, base: Path | None = None, overwrite: bool = False) -> None:
    """Write a plain Hugging Face folder: the base with the adapters added. A block at a time, never a whole matrix.

    Args:
        base: where it lies, as a Hugging Face folder or a Megatron checkpoint; None: where it lay in training.
    Raises:
        CheckpointError: another base than the one that the adapters were trained over, or none.
    """
    adapter = read_adapter(path, base)
    under = open_base(_still_there(adapter.base))
    if (path / CONFIG).is_file() and (other := other_base(path, adapter.base, under.folder)) is not None:
        print(other.localized(), flush=True)
    problems = [*check_target(target, overwrite=overwrite, sources=[path, under.folder]), *_misfits(adapter, under)]
    if problems:
        raise CheckpointError.of(problems)
    element_type = under.element_type()
    merged = MergedSource(under.source, adapter)
    maker = BlockMaker(merged, TORCH_DTYPES[element_type], under.folder, whole=True)
    facts = {"format": "huggingface", "precision": AS_TYPED[element_type], "source": f"{adapter.source} merged"}
    nbytes = under.model.num_parameters(under.vocab_size) * TORCH_DTYPES[element_type].itemsize
    with staged(target, facts) as stage, WorkBar("bar-writing", nbytes) as bar:
        write_safetensors(stage, under.tensors(), maker, default_workers(), Relay(bar.advance))
        copy_companions(under.companions, stage.path, under.config, AS_TYPED[element_type])
        add_chat_files(stage.path, adapter.run)


def check(path: Path, merged: Path, *, base: Path | None = None) -> bool:
    """Compare a merged folder layer by layer with its base and adapters; whether all is within its tolerance."""
    from megatron_patch.checkpoint.check.merged import check_merged

    adapter = read_adapter(path, base)
    report = check_merged(open_base(adapter.base), adapter.whole, adapter.settings, open_base(merged))
    report.about["adapter"] = str(path)
    return report.show(merged)


def _misfits(adapter: Adapter, base: Base) -> list[Message]:
    if adapter.base_sha256 and base_sha256(base.folder) != adapter.base_sha256:
        return [at(base.folder, "adapters-other-base")]
    return _other_shapes(adapter, base.model)


def _other_shapes(adapter: Adapter, model: ModelConfig) -> list[Message]:
    shapes = target_shapes(model)
    if len(adapter.whole) != model.num_layers:
        return [Message("adapters-layers", found=len(adapter.whole), wanted=model.num_layers)]
    return [
        Message("adapters-shape", target=target, found=sizes((b.shape[0], a.shape[1])), wanted=sizes(shapes[target]))
        for target, (a, b) in {target: pair for each in adapter.whole.values() for target, pair in each.items()}.items()
        if (b.shape[0], a.shape[1]) != shapes[target]
    ]


def main(argv: Sequence[str]) -> int:
    """`export` or `merge`; 0, 1 where the check failed, or 2 with what is wrong."""
    about = localized("adapters-about")
    parser = ArgumentParser(prog="megatron-patch adapters", description=about)
    parser.add_argument("what", choices=("export", "merge"), help=localized("adapters-help-what"))
    parser.add_argument("--adapter", type=Path, required=True, help=localized("adapters-help-adapter"))
    parser.add_argument("--base", type=Path, default=None, help=localized("adapters-help-base"))
    parser.add_argument("--output-path", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help=localized("help-replace-folder"))
    parser.add_argument("--check", action="store_true", help=localized("adapters-help-check"))
    options = parser.parse_args(argv)
    if options.check and options.what != "merge":
        parser.error(localized("adapters-check"))
    torch.set_num_threads(1)  # the workers are the parallelism
    try:
        if options.what == "export":
            export_adapter(options.adapter, options.output_path, overwrite=options.overwrite)
        else:
            merge(options.adapter, options.output_path, base=options.base, overwrite=options.overwrite)
            if options.check and not check(options.adapter, options.output_path, base=options.base):
                return 1
    except UserError as error:
        print_error(error, os.environ)
        return 2
    say("wrote", file=options.output_path)
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main(sys.argv[1:]))
