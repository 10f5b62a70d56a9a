"""Running the layer check: in this process, or in TP x PP of them on this machine."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.hf_folder import model_of, open_hf_folder
from megatron_patch.common.files import write_text
from megatron_patch.common.progress import WorkBar
from megatron_patch.models import AUTO, ModelConfig, disagreements

if TYPE_CHECKING:
    from megatron_patch.checkpoint.check.report import Report


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """What is compared with what."""

    hf: str
    """A Hugging Face folder."""
    megatron: str
    """A torch_dist folder."""
    megatron_config: dict[str, Any]
    """The config.json that the Megatron side is built from."""
    megatron_origin: str
    """Where that comes from, for messages."""
    size: str
    precision: str
    """The element type that both sides' weights are rounded to: fp32, fp16 or bf16."""
    tp: int = 1
    pp: int = 1
    allow_pickle: bool = False


def check(request: CheckRequest) -> Report:
    """Compare both models layer by layer, on the CPU.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    from megatron_patch.checkpoint.torch_dist import read_metadata

    read_metadata(Path(request.megatron))  # Megatron unpickles it unrestricted
    if request.tp * request.pp == 1:
        return run(request)
    return _launch(request)


def _launch(request: CheckRequest) -> Report:
    """torchrun, on a port that is free; the first rank leaves the report in a file."""
    from megatron_patch.checkpoint.check.compare import Row
    from megatron_patch.checkpoint.check.report import Report

    processes = request.tp * request.pp
    cores = len(os.sched_getaffinity(0))
    print(f"the check runs {processes} processes on {cores} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        asked, answer = Path(folder, "request.json"), Path(folder, "report.json")
        asked.write_text(json.dumps(asdict(request)))
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        command += ["-m", "megatron_patch.checkpoint.check.run", str(asked), str(answer)]
        threads = str(max(1, cores // processes))
        root = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if not answer.exists():
            raise CheckpointError(["the check's processes failed; their last words:", *done.stdout.splitlines()[-30:]])
        found = json.loads(answer.read_text())
    if "refused" in found:
        raise CheckpointError(found["refused"])
    return Report(
        rows=[Row(**row) for row in found["rows"]], about=found["about"], configuration=found["configuration"]
    )


def run(request: CheckRequest) -> Report:
    """This process's part of the check; with several processes, every one of them calls it.

    Raises:
        CheckpointError: one of the sides cannot be read.
    """
    hf = open_hf_folder(Path(request.hf), request.size, allow_pickle=request.allow_pickle)
    model = model_of(request.megatron_config, request.megatron_origin, AUTO)
    configuration = _fits(request, hf.model, model)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the check is the same on every machine
    _quiet()
    from megatron_patch.backend import enable

    enable("cpu")
    import torch

    from megatron_patch.checkpoint.check.compare import compare, open_sides
    from megatron_patch.checkpoint.check.megatron import start_processes
    from megatron_patch.checkpoint.check.report import Report
    from megatron_patch.checkpoint.check.text_sample import sample_tokens

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    try:
        rows, what = sample_tokens(hf.path, min(hf.vocab_size, model.vocab_size or hf.vocab_size))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    tokens = torch.tensor(rows)
    print(what, flush=True)
    start_processes(request.tp, request.pp)
    sides = open_sides(hf, Path(request.megatron), model, request.precision, request.tp, request.pp)
    with WorkBar("checking", model.num_layers + 2, unit="parts") as bar:
        found = compare(sides, tokens, bar.advance)
    about = {**asdict(request), "tokens": what}
    return Report(rows=found, about=about, configuration=configuration)


def _quiet() -> None:
    """Keep to themselves what Megatron and torch say about what is not installed and will be deprecated."""
    warnings.simplefilter("ignore")
    for name in ("megatron", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _fits(request: CheckRequest, hf: ModelConfig, ours: ModelConfig) -> list[str]:
    """Refuse the checkpoint of another model before Megatron fails on it with a stack trace.

    Returns:
        where the two configurations differ in what tensors do not show.
    """
    from megatron_patch.checkpoint.conversion import Conversion
    from megatron_patch.checkpoint.convert import check_megatron_shapes
    from megatron_patch.checkpoint.torch_dist import TorchDistReader

    assert ours.vocab_size is not None
    conversion = Conversion(model=ours, vocab_size=ours.vocab_size, precision=request.precision, workers=1)
    check_megatron_shapes(TorchDistReader(Path(request.megatron)), conversion)
    lines = [line.replace("but MODEL_SIZE auto has", "in Megatron's") for line in disagreements(hf, ours)]
    if ours.vocab_size != hf.vocab_size:
        lines.append(f"vocab_size is {hf.vocab_size}, in Megatron's {ours.vocab_size}")
    invisible = [line for line in lines if line.startswith(("rope_", "norm_"))]
    if len(lines) > len(invisible):
        raise CheckpointError([f"{request.hf} and {request.megatron} are not one model: {line}" for line in lines])
    return invisible


def _rank_main() -> None:
    asked, answer = Path(sys.argv[1]), Path(sys.argv[2])
    request = CheckRequest(**json.loads(asked.read_text()))
    first = int(os.environ["RANK"]) == 0
    try:
        report = run(request)
        found = {
            "rows": [asdict(row) for row in report.rows],
            "about": report.about,
            "configuration": report.configuration,
        }
    except CheckpointError as error:
        found = {"refused": error.problems}
    if first:
        write_text(answer, json.dumps(found))


if __name__ == "__main__":
    _rank_main()
