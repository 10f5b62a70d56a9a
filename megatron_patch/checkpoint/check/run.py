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
from megatron_patch.checkpoint.formats.hf_folder import model_of, open_hf_folder
from megatron_patch.common.files import write_text
from megatron_patch.common.messages import Message, as_json, from_json, say
from megatron_patch.common.progress import WorkBar
from megatron_patch.models import AUTO, ModelConfig, unlike

if TYPE_CHECKING:
    from megatron_patch.checkpoint.check.report import CheckReport


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


def check(request: CheckRequest) -> CheckReport:
    """Compare both models layer by layer, on the CPU.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    from megatron_patch.checkpoint.formats.torch_dist import read_metadata

    read_metadata(Path(request.megatron))  # Megatron unpickles it unrestricted
    if request.tp * request.pp == 1:
        return run(request)
    return _launch(request)


def _launch(request: CheckRequest) -> CheckReport:
    """torchrun, on a port that is free; the first rank leaves the report in a file."""
    from megatron_patch.checkpoint.check.compare import PartComparison
    from megatron_patch.checkpoint.check.report import CheckReport

    processes = request.tp * request.pp
    cores = len(os.sched_getaffinity(0))
    say("check-processes", processes=processes, cores=cores)
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
            raise CheckpointError("check-processes-failed", lines=done.stdout.splitlines()[-30:])
        found = json.loads(answer.read_text())
    if "refused" in found:
        raise CheckpointError.of(from_json(found["refused"]))
    configuration = from_json(found["configuration"])
    return CheckReport(
        rows=[PartComparison(**row) for row in found["rows"]], about=found["about"], configuration=configuration
    )


def run(request: CheckRequest) -> CheckReport:
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
    from megatron_patch.checkpoint.check.report import CheckReport
    from megatron_patch.checkpoint.check.text_sample import sample_tokens

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    rows, what = sample_tokens(hf.path, min(hf.vocab_size, model.vocab_size or hf.vocab_size))
    tokens = torch.tensor(rows)
    print(what.localized(), flush=True)
    start_processes(request.tp, request.pp)
    sides = open_sides(hf, Path(request.megatron), model, request.precision, request.tp, request.pp)
    with WorkBar("bar-checking", model.num_layers + 2, unit="bar-parts") as bar:
        found = compare(sides, tokens, bar.advance)
    about = {**asdict(request), "tokens": str(what)}
    return CheckReport(rows=found, about=about, configuration=configuration)


def _quiet() -> None:
    """Keep to themselves what Megatron and torch say about what is not installed and will be deprecated."""
    warnings.simplefilter("ignore")
    for name in ("megatron", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _fits(request: CheckRequest, hf: ModelConfig, ours: ModelConfig) -> list[Message]:
    """Refuse the checkpoint of another model before Megatron fails on it with a stack trace.

    Returns:
        where the two configurations differ in what tensors do not show.
    """
    from megatron_patch.checkpoint.converter.conversion import Conversion
    from megatron_patch.checkpoint.converter.convert import check_megatron_shapes
    from megatron_patch.checkpoint.formats.torch_dist import TorchDistReader

    assert ours.vocab_size is not None
    conversion = Conversion(model=ours, vocab_size=ours.vocab_size, precision=request.precision, workers=1)
    check_megatron_shapes(TorchDistReader(Path(request.megatron)), conversion)
    fields = [one for one in unlike(hf, ours) if one[0] != "vocab_size"]
    fields += [("vocab_size", hf.vocab_size, ours.vocab_size)] if ours.vocab_size != hf.vocab_size else []
    said = {name: Message("check-differs", field=name, found=mine, wanted=theirs) for name, mine, theirs in fields}
    invisible = [message for name, message in said.items() if name.startswith(("rope_", "norm_"))]
    if len(said) > len(invisible):
        both = {"hf": request.hf, "megatron": request.megatron}
        raise CheckpointError.of([Message("check-other-model", **both, what=what) for what in said.values()])
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
            "configuration": as_json(report.configuration),
        }
    except CheckpointError as error:
        found = {"refused": as_json(error.messages)}
    if first:
        write_text(answer, json.dumps(found))


if __name__ == "__main__":
    _rank_main()
