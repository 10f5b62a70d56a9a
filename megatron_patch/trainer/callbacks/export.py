"""`--export-hf`: the Hugging Face folder of the last iteration, once all are done; or one of each checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_patch.common.messages import localized
from megatron_patch.trainer.callbacks.base import Callback, End, Rank

if TYPE_CHECKING:
    from megatron_patch.trainer.exporter import Exporter


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
        self._exporter: Exporter | None = None

    def arguments(self, args: Any) -> None:
        self._target, self._adapters = args.export_hf, bool(args.lora_rank)
        if args.export_hf_every:
            from megatron_patch.trainer.exporter import Exporter

            self._exporter = Exporter(
                self._rank.output_dir,
                args.export_hf,
                adapters=self._adapters,
                keep=args.keep_checkpoints,
                say=self._rank.screen.say_here,
            )

    def train_start(self, args: Any, model: list[Any]) -> None:
        if self._exporter is not None:
            self._exporter.add_missing()

    def saved(self, iteration: int) -> None:
        if self._exporter is not None:
            self._exporter.add(iteration)

    def end(self, end: End) -> None:
        """
        Raises:
            CheckpointError: it cannot be written; the checkpoint is there all the same.
        """
        from megatron_patch.checkpoint.errors import CheckpointError

        if end.how != "finished" or self._target is None:
            return  # what is not exported yet, the next start exports
        if self._exporter is not None:
            if problems := self._exporter.finish():
                raise CheckpointError("not-exported-at-end", problems=problems)
        else:
            self._export(self._target)

    def _export(self, target: Path) -> None:
        from megatron_patch.checkpoint.errors import CheckpointError
        from megatron_patch.checkpoint.export import export_hf

        if target.is_symlink():  # of MP_EXPORT_HF=every
            target.unlink()
        if self._adapters:
            from megatron_patch.checkpoint.adapters import export_adapter

            export_adapter(self._rank.output_dir, target, overwrite=True)
            self._rank.screen.say_here(localized("exported-adapters", path=target))
            return
        try:
            for line in export_hf(self._rank.output_dir, target, overwrite=True):
                self._rank.screen.say_here(line.localized())
        except CheckpointError as error:
            raise CheckpointError("not-exported-at-end", problems=error.messages) from None
