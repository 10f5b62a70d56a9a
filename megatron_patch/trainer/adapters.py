"""What the adapters of a run need before its model is wrapped: base, record, start; or the freezing of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megatron_patch.backend.flops import count_frozen
from megatron_patch.backend.gpu.quantized import in_high_precision
from megatron_patch.backend.saving.checkpoint_fixes import allow_holes
from megatron_patch.common.messages import localized
from megatron_patch.models.megatron import model_of_arguments
from megatron_patch.peft.base import record_base
from megatron_patch.peft.folder import read_folder, settings_of
from megatron_patch.peft.insert import add_adapters, freeze
from megatron_patch.peft.settings import (
    FIXED,
    LoraSettings,
    PeftError,
    adapter_parameters,
    frozen_layers,
    frozen_words,
    settings_of_arguments,
)


def prepare(args: Any, model_chunks: list[Any]) -> None:
    """Freeze, and insert adapters where they are asked for.

    Args:
        args: Megatron's arguments with ours.
        model_chunks: filled from --hf-checkpoint, if that is the base.
    Raises:
        PeftError, BaseProblem: the base or the adapters are not those of this run.
    """
    settings = settings_of_arguments(args)
    if settings is None:
        allow_holes()
        names = frozen_words(args.freeze)
        tied = not args.untie_embeddings_and_output_weights
        head = "head" in names or (tied and "embedding" in names)
        count_frozen(layers=len(frozen_layers(args.freeze)), head=head)
        print(localized("adapters-frozen", parts=args.freeze, count=freeze(model_chunks, args.freeze)))
        return
    if args.base_checkpoint:
        with in_high_precision(model_chunks):
            load_base(model_chunks, args.base_checkpoint)
    _on_rank_0(lambda: _record(args, settings))
    model = model_of_arguments(args)
    start = None
    if args.lora_adapter and not args.load:  # a resume goes on from its own
        _refuse_other(settings, args.lora_adapter)
        start = read_folder(args.lora_adapter, model)
    trained = add_adapters(model_chunks, settings, model, seed=args.seed, start=start)
    weights = adapter_parameters(settings, model, 1, range(model.num_layers))
    count_frozen(layers=model.num_layers, head=True, adapters=weights)
    print(localized("adapters-trained", settings=settings, count=trained))


def load_base(model_chunks: list[Any], folder: Path) -> None:
    """Fill a model from one iteration of a Megatron checkpoint (torch_dist), whatever its layout was.

    All chunks of a virtual pipeline in one go: megatron-core refuses a load in which the ranks together leave a part
    of a tensor out.
    """
    from megatron.core import dist_checkpointing

    wanted = {f"model{number}": chunk.sharded_state_dict() for number, chunk in enumerate(model_chunks)}
    state = dist_checkpointing.load(wanted, str(folder))
    for number, chunk in enumerate(model_chunks):
        found = state[f"model{number}"]
        chunk.load_state_dict({name: found[name] for name in chunk.state_dict() if name in found})


def _record(args: Any, settings: LoraSettings) -> None:
    if args.save:
        record_base(Path(args.save), settings, args.hf_checkpoint or args.base_checkpoint, resuming=bool(args.load))


def _refuse_other(settings: LoraSettings, folder: Path) -> None:
    """The adapter's own rank, alpha and targets are those of the run: launch takes them from it."""
    theirs = settings_of(folder)
    for name in FIXED:
        mine, other = getattr(settings, name), getattr(theirs, name)
        if mine != other:
            raise PeftError("adapter-differs", path=folder, name=name, theirs=other, ours=mine)


def _on_rank_0(act: Any) -> None:
    """Do something on one rank, and fail on all where it fails."""
    error: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            act()
        except Exception as caught:
            error = [caught]
    torch.distributed.broadcast_object_list(error, src=0)
    if error[0] is not None:
        raise error[0]
