"""A new logger is one file."""

from __future__ import annotations

import json
from pathlib import Path

from megatron_patch.trainer import callbacks
from megatron_patch.trainer.callbacks import Callback, Callbacks, End

from .harness import complete_iterations, launch_warm

LOGGER = '''
"""A logger as a stranger would write it."""

import json

from megatron_patch.trainer.callbacks import Callback


def make(rank):
    return Account(rank.output_dir / "account.jsonl") if rank.speaks else None


class Account(Callback):
    def __init__(self, path):
        self.file = path.open("w")

    def note(self, *words):
        self.file.write(json.dumps(words) + "\\\\n")

    def arguments(self, args):
        self.note("arguments", args.train_iters)

    def built(self, part):
        self.note("built", part)

    def train_start(self, args, model):
        self.note("train_start", args.iteration, len(model))

    def step(self, step):
        self.note("step", step.iteration, step.loss)

    def evaluated(self, iteration, split, loss, parts):
        self.note("evaluated", iteration, split, loss)

    def saved(self, iteration):
        self.note("saved", iteration)

    def close(self):
        self.note("close")
        self.file.close()

    def end(self, end):
        assert self.file.closed
        print("it ended:", end)
'''

SCRIPT = f"""
import sys
from pathlib import Path

import megatron_patch.trainer.callbacks as callbacks

folder = Path(sys.argv[sys.argv.index("--output-dir") + 1]) / "more"
folder.mkdir(parents=True, exist_ok=True)
(folder / "account.py").write_text('''{LOGGER}''')
callbacks.__path__.append(str(folder))

from megatron_patch.trainer.entry import main

main()
"""


def test_a_file_is_a_logger(tmp_path: Path, data: Path) -> None:
    """It is found beside the others, and hears of everything in its order."""
    script = tmp_path / "rank.py"
    script.write_text(SCRIPT)
    flags = f"--train-iters 3 --valid-data-path {data} --eval-interval 2 --eval-iters 1"
    flags += f" --save {tmp_path}/out/checkpoints --save-interval 3"
    run = launch_warm(tmp_path / "out", data, flags, script=script)
    assert run.returncode == 0, run.stderr
    told = [json.loads(line) for line in (tmp_path / "out" / "account.jsonl").read_text().splitlines()]
    assert [words[0] for words in told if words[0] != "built"] == [
        "arguments", "train_start", "step", "step", "evaluated", "step", "saved", "evaluated", "close"
    ]  # fmt: skip
    assert [words[2] for words in told if words[0] == "step"] == run.losses
    assert ["saved", 3] in told and complete_iterations(tmp_path / "out" / "checkpoints") == [3]
    assert "it ended: End(how='finished', cause=None, iteration=3)" in run.log()


def test_who_is_told_first() -> None:
    """Priorities decide, not file names; closing goes the other way."""

    class Late(Callback):
        priority = -1

        def __init__(self, heard: list[str]) -> None:
            self.heard = heard

        def end(self, end: End) -> None:
            self.heard.append(f"{self.priority} end")

        def close(self) -> None:
            self.heard.append(f"{self.priority} close")

    class Early(Late):
        priority = 5

    heard: list[str] = []
    both = Callbacks([Late(heard), Early(heard)])
    both.end(End(how="finished", cause=None, iteration=1))
    both.close()
    assert heard == ["5 end", "-1 end", "-1 close", "5 close"]


def test_every_file_there_is_a_callback() -> None:
    """But for `base.py`: what has no `make` would be forgotten in silence."""
    files = {path.stem for path in Path(callbacks.__path__[0]).glob("*.py")} - {"__init__", "base"}
    assert files == {name for name in files if "def make(" in (Path(callbacks.__path__[0]) / f"{name}.py").read_text()}
    assert files >= {"metrics", "progress", "startup", "wandb", "export"}
