"""The Hugging Face folder of any saved iteration, for programs: what the converter's mg2hf=true is for people.

`megatron-patch export RUN FOLDER` on a command line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from megatron_patch.checkpoint.converter.job import inspect
from megatron_patch.checkpoint.converter.options import Options
from megatron_patch.checkpoint.converter.positions import TO_HF
from megatron_patch.checkpoint.converter.run_conversion import run_conversion, wrote
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import WorkerKilled, WorkersRefused
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.terminal import guard


def export_hf(
    checkpoint: str | Path,
    output: str | Path,
    *,
    hf_path: str | Path | None = None,
    size: str = "auto",
    precision: str | None = None,
    iteration: int | None = None,
    overwrite: bool = False,
    workers: int | None = None,
) -> list[Message]:
    """Write the Hugging Face folder of a checkpoint. One process does it; the others may go on or wait.

    Only the model's tensors are read, whatever layout and optimizer the training had.

    Args:
        checkpoint: a run's output folder, its `checkpoints`, or one iteration.
        output: the folder to write, which appears whole or not at all.
        hf_path: where config.json and tokenizer come from; None finds them beside the checkpoint or in the run's plan.
        size: a size of the family, held against the configuration.
        precision: fp32, fp16 or bf16; None keeps the checkpoint's.
        iteration: another than the newest.
        workers: threads; None lets the machine decide.
    Returns:
        lines for the user.
    Raises:
        CheckpointError: with every reason why it cannot be done.
    """
    options = Options(
        size=size,
        source=Path(checkpoint),
        target=Path(output),
        direction=TO_HF,
        precision=precision,
        hf_path=Path(hf_path) if hf_path else None,
        iteration=iteration,
        overwrite=overwrite,
        workers=workers,
    )
    job = inspect(options)
    try:
        return [*job.notes, wrote(job, run_conversion(job))]
    except (WorkerKilled, WorkersRefused) as error:
        raise CheckpointError.of(error.messages) from None


def main() -> int:
    """Command line; returns the exit status."""
    parser = ArgumentParser(prog="megatron-patch export", description=localized("export-about"))
    parser.add_argument("checkpoint", type=Path, metavar="RUN", help=localized("export-help-run"))
    parser.add_argument("output", type=Path, metavar="FOLDER", help=localized("export-help-folder"))
    parser.add_argument("--hf-path", type=Path, help=localized("export-help-hf-path"))
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help=localized("export-help-precision"))
    parser.add_argument("--iteration", type=int, help=localized("export-help-iteration"))
    parser.add_argument("--overwrite", action="store_true", help=localized("help-replace-folder"))
    given = vars(parser.parse_args())
    try:
        for line in export_hf(given.pop("checkpoint"), given.pop("output"), **given):
            print(line.localized())
    except CheckpointError as error:
        print(error.localized(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main())
