"""A run as the driver plans it, done by warm ranks: the 25 values and MP_ variables, without the seconds of imports."""

from __future__ import annotations

from pathlib import Path

from megatron_patch.data.train_tokenizer import save
from megatron_patch.data.train_tokenizer import train as train_tokenizer
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import content_of
from megatron_patch.runs.folder import write_plan

from . import warm
from .harness import SCRIPT, Run, build_idxmap, environment, read_metrics

SEQ = 64
VALUES = "dsw tiny 1 8 1e-3 1e-4 64 64 fp32 1 1 1 false false true false false false 100 DATA none none TRAIN WARM OUT"
NAMES = [position.name for position in POSITIONS]


def make_world(folder: Path) -> Path:
    """A tokenizer with as many ids as the data has, and data."""
    (folder / "text.jsonl").write_text('{"text": "a few words of text to learn letters from"}\n' * 50)
    save(train_tokenizer([folder / "text.jsonl"], vocab_size=300), folder / "tokenizer")
    build_idxmap(folder / "data")
    return folder


def start(world: Path, output: Path, *, processes: int = 1, variables: dict[str, str], **changes: object) -> Run:
    """Plan the run as the driver does, and let warm ranks do it."""
    typed = dict(zip(NAMES, VALUES.split(), strict=True))
    typed |= {"DATASET_PATH": str(world / "data"), "OUTPUT_BASEPATH": str(output)}
    typed |= {name: str(value) for name, value in changes.items()}
    environ = {"MP_TOKENIZER_PATH": str(world / "tokenizer"), "MP_DEVICE": "cpu", "MP_NPROC": str(processes)}
    plan, _, problems = make_plan(list(typed.values()), environ | variables, dry_run=False)
    assert plan is not None, problems
    output.mkdir(exist_ok=True)
    write_plan(output, content_of(plan))
    screen = output.parent / f"{output.name}.screen"
    argv = megatron_argv(plan)
    status = warm.run(SCRIPT, argv, processes=processes, environ=environment(), screen=screen, timeout=300)
    said = {name: Path(f"{screen}.{ending}").read_text() for name, ending in (("stdout", "out"), ("stderr", "err"))}
    assert status == 0, said
    return Run(returncode=status, **said, output=output, metrics=read_metrics(output))
