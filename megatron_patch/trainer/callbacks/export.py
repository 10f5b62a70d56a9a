"""`--export-hf`: the Hugging Face folder of the last iteration, written once all of them are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_patch.trainer.callbacks.base import Callback, End, Rank


def make(rank: Rank) -> Callback | None:
    """On the first rank; the others need not wait for it."""
    return HuggingFaceExport(rank) if rank.rank == 0 else None


class HuggingFaceExport(Callback):
    """Also where a start finds that all iterations are done."""

    priority = -10

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._target: Path | None = None
        self._adapters = False

    def arguments(self, args: Any) -> None:
        self._target, self._adapters = args.export_hf, bool(args.lora_rank)

    def end(self, end: End) -> None:
        """
        Raises:
            CheckpointError: it cannot be written; the checkpoint is there all the same.
        """
        if end.how != "finished" or self._target is None:
            return
        from megatron_patch.checkpoint.errors import CheckpointError
        from megatron_patch.checkpoint.export import export_hf

        if self._adapters:
            from megatron_patch.checkpoint.adapters import export_adapter

            export_adapter(self._rank.output_dir, self._target, overwrite=True)
            self._rank.screen.say_here(f"wrote {self._target}: adapters for Hugging Face's PEFT")
            return
        try:
            for line in export_hf(self._rank.output_dir, self._target, overwrite=True):
                self._rank.screen.say_here(line)
        except CheckpointError as error:
            problems = ["training is done and saved, but not exported:", *error.problems]
            raise CheckpointError(problems) from None
