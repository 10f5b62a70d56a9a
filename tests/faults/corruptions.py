"""Files of a run that are not what was written: the newest checkpoint's, all others beside it; then the same command.

The run has saved at iterations 2, 4 and 6 and has 8 to do. Something happens to a file; the same command must end as
an undisturbed run does, say what is wrong with a checkpoint that it passes over, and never train on damaged numbers.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from .campaign import Case, Outcome, Part
from .runs import Wrong, compare, finish, reference, shared_world
from .world import Job

Damage = Callable[[Path, random.Random], object]
NEWEST = "checkpoints/iter_0000006"
STORED = ("__0_0.distcp", "__0_1.distcp", "__1_0.distcp", "__1_1.distcp", ".metadata", "checksums.json")
NOTICED = ("damaged", "missing", "unverified", "was renamed", "were written", "not written to its end", "set aside")


def flip(file: Path, chance: random.Random) -> None:
    """One bit."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def overwrite(file: Path, chance: random.Random, fill: Callable[[int], bytes]) -> None:
    """Up to 4096 bytes somewhere."""
    size = file.stat().st_size
    length = min(4096, size)
    with file.open("r+b") as stream:
        stream.seek(chance.randint(0, size - length))
        stream.write(fill(length))


def swap_halves(file: Path, chance: random.Random) -> None:
    """As a disk that mixes up blocks."""
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[half:] + content[:half])


def make_folder(file: Path, chance: random.Random) -> None:
    """A folder of the same name."""
    remove(file, chance)
    file.mkdir()


def remove(file: Path, chance: random.Random) -> None:
    """Gone."""
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def dangle(file: Path, chance: random.Random) -> None:
    """A link to nothing."""
    remove(file, chance)
    file.symlink_to("nowhere")


def of_iteration(step: int, file: Path, chance: random.Random) -> None:
    """The file of another checkpoint."""
    shutil.copy(file.parent.parent / f"iter_{step:07d}" / file.name, file)


def content(text: str | bytes, file: Path, chance: random.Random) -> None:
    """Something else in it."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)


DAMAGES: dict[str, Damage] = {
    "one bit flipped": flip,
    "a page of zeros": partial(overwrite, fill=bytes),
    "a page of other bytes": partial(overwrite, fill=lambda length: random.Random(length).randbytes(length)),
    "cut in half": lambda file, _: os.truncate(file, file.stat().st_size // 2),
    "last byte missing": lambda file, _: os.truncate(file, file.stat().st_size - 1),
    "empty": lambda file, _: os.truncate(file, 0),
    "longer": lambda file, _: file.open("ab").write(b"\0" * 100),
    "halves swapped": swap_halves,
    "of another iteration": partial(of_iteration, 4),
    "removed": remove,
    "a folder in its place": make_folder,
    "a link to nothing": dangle,
}


def _rename(run: Path, chance: random.Random) -> None:
    (run / NEWEST).rename(run / "checkpoints/iter_0000010")


def _copy_under_another_name(run: Path, chance: random.Random) -> None:
    shutil.rmtree(run / NEWEST)
    shutil.copytree(run / "checkpoints/iter_0000002", run / NEWEST)


def _two_damaged(run: Path, chance: random.Random) -> None:
    flip(run / NEWEST / "__0_0.distcp", chance)
    flip(run / "checkpoints/iter_0000004/__1_0.distcp", chance)


def _three_kinds(run: Path, chance: random.Random) -> None:
    (run / NEWEST / ".metadata").unlink()
    (run / "checkpoints/iter_0000004/checksums.json").write_text("{")
    (run / "checkpoints/iter_0000099").mkdir()
    (run / "checkpoints/iter_0000099/metadata.json").write_text("{}")


FOLDERS: dict[str, Damage] = {
    "the folder renamed to a later iteration": _rename,
    "an older checkpoint under its name": _copy_under_another_name,
    "the newest two damaged": _two_damaged,
    "three kinds at once": _three_kinds,
    "mark of completion removed": lambda run, _: (run / NEWEST / "metadata.json").unlink(),
    "mark of completion torn": lambda run, _: (run / NEWEST / "metadata.json").write_text('{"sharded'),
    "emptied": lambda run, _: [path.unlink() for path in (run / NEWEST).iterdir()],
}
TRACKER = "checkpoints/latest_checkpointed_iteration.txt"
SIDE: dict[str, tuple[str, Damage]] = {
    **{
        f"tracker {name}": (TRACKER, damage)
        for name, damage in {
            "empty": DAMAGES["empty"],
            "removed": remove,
            "names no iteration": partial(content, "soon"),
            "names one that is not there": partial(content, "400"),
            "of 30 digits": partial(content, "9" * 30),
            "a folder": make_folder,
            "not UTF-8": partial(content, b"\xff\xfe6"),
        }.items()
    },
    **{
        f"{file} {name}": (file, damage)
        for file in ("plan.json", "metrics.jsonl")
        for name, damage in {
            "torn": lambda file, _: os.truncate(file, file.stat().st_size - 7),
            "of NUL bytes": partial(content, bytes(3000)),
            "nested 100,000 deep": partial(content, "[" * 100_000),
            "with a number of 5,000 digits": partial(content, '{"iteration": ' + "9" * 5000 + "}\n"),
            "removed": remove,
            "another type": partial(content, '"x"\n'),
        }.items()
    },
    "ended.json of NUL bytes": ("ended.json", partial(content, bytes(10))),
    "startup.json torn": ("startup.json", partial(content, "{")),
    "command.txt binary": ("command.txt", partial(content, b"\xff\x00")),
    "launcher.lock of other text": ("logs/launcher.lock", partial(content, "[1, 2]")),
    **{
        f"{file} a folder": (file, make_folder)
        for file in ("plan.json", "metrics.jsonl", "command.txt", "ended.json", "startup.json", "logs/rank_0.log")
    },
    "the logs a file": ("logs", lambda file, _: (remove(file, _), file.write_text("x"))),
    "the index cache a file": ("cache", lambda file, _: (remove(file, _), file.write_text("x"))),
    "a rank's log removed": ("logs/rank_0.log", remove),
    "the index cache torn": ("cache", lambda cache, _: [os.truncate(path, 50) for path in cache.rglob("*.npy")]),
    "the index cache removed": ("cache", remove),
    "a stray file iter_0000012": ("checkpoints", lambda folder, _: (folder / "iter_0000012").touch()),
    "a stray folder iter_99999999999999999999": (
        "checkpoints",
        lambda folder, _: (folder / "iter_99999999999999999999").mkdir(),
    ),
    "a stray folder .incomplete_x": ("checkpoints", lambda folder, _: (folder / ".incomplete_x").mkdir()),
    "a stray folder iter_-000001": ("checkpoints", lambda folder, _: (folder / "iter_-000001").mkdir()),
    "a link to itself among checkpoints": ("checkpoints", lambda folder, _: (folder / "iter_0000014").symlink_to(".")),
}
"""Nothing of these may keep a good checkpoint from being used, or mislead."""


def cases() -> list[Case]:
    """All of the tables above."""
    found = []
    for file in STORED:
        for name, damage in DAMAGES.items():
            said = (file, name) != ("checksums.json", "last byte missing")  # a line feed
            run = partial(damaged_run, f"{NEWEST}/{file}", damage, said)
            found.append(Case(name=f"{file} {name}", kind=f"{_kind(file)}: {name}", run=run))
    for name, damage in FOLDERS.items():
        run = partial(damaged_run, "", damage, True)
        found.append(Case(name=f"checkpoint: {name}", kind="a checkpoint's folder", run=run))
    for name, (file, damage) in SIDE.items():
        run = partial(damaged_run, file, damage, False)
        found.append(Case(name=name, kind="a side file", run=run))
    return found


def _kind(file: str) -> str:
    return "tensors" if file.endswith(".distcp") else file


def job(output: Path) -> Job:
    """Eight iterations."""
    return Job(world=shared_world(), output=output, iterations=8, save_interval=2, background=False)


@cache
def undisturbed() -> Job:
    """The run that nothing happens to."""
    return reference(job, "corruptions")


def damaged_run(file: str, damage: Damage, must_be_said: bool, folder: Path) -> Outcome:
    """Six iterations are done; something happens to a file; go on."""
    whole, run = undisturbed(), job(folder / "out")
    shutil.copytree(whole.output, run.output)
    shutil.rmtree(run.checkpoints / "iter_0000008")
    (run.output / TRACKER).write_text("6")
    damage(run.output / file, random.Random(file))
    try:
        said = finish(run, folder / "screen")
        compare(run, whole, since=7 if file == "metrics.jsonl" else 1)
        noticed = any(word in said for word in NOTICED) or Path(file).name in said
        if must_be_said and not noticed:
            raise Wrong(f"nothing is said of it: {said[-1500:]}")
    except Wrong as wrong:
        return Outcome(problem=str(wrong))
    return Outcome(noticed=int(noticed), survived=1, lost=6 - _resumed_from(said))


def _resumed_from(said: str) -> int:
    """The last iteration that it says it goes on from."""
    found = [word for line in said.splitlines() for word in (_after(line),) if word]
    return int(found[-1]) if found else 0


def _after(line: str) -> str:
    for words in ("resuming from iteration ", "going on from iteration "):
        if words in line:
            return line.partition(words)[2].split()[0].rstrip(",;")
    return ""


PART = Part(
    name="corruptions",
    title="Damaged checkpoints and side files",
    goal=60,
    must="damage of a checkpoint is said, by file, and the newest good one is taken; damage of another file keeps "
    "nothing from going on; losses and stored tensors are the bits of an undisturbed run",
    how="Two processes; checkpoints of iterations 2, 4 and 6 of 8, one file changed, then the same command.",
    cases=cases,
    short=4,
)
