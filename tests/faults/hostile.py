"""Files that somebody gives us to do harm: none runs code, and none writes outside of where a tool was told to write.

Every attack would leave a file with the name CANARY behind, or one outside of the tool's own folder. The tools run
without name spaces here, so that what they can write they may write.
"""

from __future__ import annotations

import builtins
import functools
import io
import json
import operator
import os
import pickle
import random
import runpy
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp

from .bad_inputs import template
from .campaign import Case, Outcome, Part
from .corruptions import undisturbed
from .runs import LONGEST
from .tools import run_tool
from .warm_start import STARTER
from .world import Job

CANARY = "executed"
STEP = "run/checkpoints/iter_0000008"


class Attack:
    """Calls something when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.what = (call, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


def gadgets(canary: Path) -> dict[str, Any]:
    """Ways of running code from a pickle."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Attack(os.system, touch),
        "builtins.exec": Attack(builtins.exec, code),
        "builtins.eval": Attack(builtins.eval, code),
        "subprocess.Popen": Attack(subprocess.Popen, ["touch", str(canary)]),
        "functools.partial": Attack(functools.reduce, operator.add, [Attack(os.system, touch), 1]),
        "runpy": Attack(runpy._run_code, code, {}),
        "pathlib": Attack(Path.touch, canary),
        "torch.load": Attack(
            partial(torch.load, weights_only=False), io.BytesIO(pickle.dumps(Attack(os.system, touch)))
        ),
        "operator.methodcaller": Attack(operator.methodcaller("touch").__call__, canary),
        "numpy": Attack(partial(np.load, allow_pickle=True), io.BytesIO(pickle.dumps(Attack(os.system, touch)))),
    }


def _metadata(place: Path, attack: Any) -> None:
    (place / STEP / "checksums.json").unlink()
    (place / STEP / ".metadata").write_bytes(pickle.dumps(attack))


def _object(place: Path, attack: Any) -> None:
    shutil.rmtree(place / STEP)
    dcp.save({"common_state/shard_0_1": attack, "a": torch.ones(3)}, checkpoint_id=place / STEP, no_dist=True)
    (place / STEP / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')


def _byte_item(place: Path, attack: Any) -> None:
    """In a whole checkpoint, the arguments' bytes."""
    (place / STEP / "checksums.json").unlink()
    metadata = pickle.loads((place / STEP / ".metadata").read_bytes())
    stream = io.BytesIO()
    torch.save(attack, stream)
    for index, where in metadata.storage_data.items():
        if index.fqn.startswith(("common_state", "rng_state")):
            file = place / STEP / where.relative_path
            with file.open("ab") as target:
                metadata.storage_data[index] = type(where)(
                    relative_path=where.relative_path, offset=target.tell(), length=len(stream.getvalue())
                )
                target.write(stream.getvalue())
    (place / STEP / ".metadata").write_bytes(pickle.dumps(metadata))


def _common(place: Path, attack: Any) -> None:
    (place / STEP / "checksums.json").unlink()
    torch.save({"args": attack, "iteration": 8}, place / STEP / "common.pt")


def _per_rank(place: Path, attack: Any) -> None:
    shutil.rmtree(place / STEP)
    (place / STEP / "mp_rank_00").mkdir(parents=True)
    torch.save({"args": attack, "model": {}}, place / STEP / "mp_rank_00" / "model_optim_rng.pt")


def _plain_per_rank(place: Path, attack: Any) -> None:
    shutil.rmtree(place / STEP)
    (place / STEP / "mp_rank_00").mkdir(parents=True)
    (place / STEP / "mp_rank_00" / "model_optim_rng.pt").write_bytes(pickle.dumps(attack))


def _bin(place: Path, attack: Any) -> None:
    (place / "model" / "model.safetensors").unlink()
    torch.save({"model.norm.weight": attack}, place / "model" / "pytorch_model.bin")


def _index_cache(place: Path, attack: Any) -> None:
    for file in (place / "run" / "cache").rglob("*.npy"):
        np.save(file, np.array([attack], dtype=object), allow_pickle=True)


EXPORT, VERIFY = ("export", ("run", "out")), ("verify", ("run",))
CONVERT = ("convert", ("auto", "model", "out", "1", "1", "false", "false", "false", "fp32", "--allow-pickle"))
EVALUATE = ("evaluate", ("run", "cmmlu", "questions", "--output", "out", "--cache", "cache"))
BACK = ("convert", ("auto", "run/checkpoints", "out", "1", "1", "true", "false", "false", "fp32", "model"))
RESUME = ("train", ())
CARRIERS: dict[str, tuple[Callable[[Path, Any], None], list[tuple[str, tuple[str, ...]]]]] = {
    "index of a checkpoint (.metadata)": (_metadata, [EXPORT, VERIFY, BACK, RESUME]),
    "a checkpoint of one object": (_object, [EXPORT, BACK, RESUME]),
    "byte items of a checkpoint": (_byte_item, [RESUME, EXPORT, BACK]),
    "common.pt": (_common, [EXPORT, RESUME, BACK]),
    "per-rank file": (_per_rank, [BACK, EXPORT, EVALUATE]),
    "per-rank file, plain pickle": (_plain_per_rank, [BACK, EXPORT, RESUME]),
    "pytorch_model.bin": (_bin, [CONVERT]),
    "index cache (.npy)": (_index_cache, [RESUME]),
}
TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ lipsum.__globals__['os'].system('touch CANARY') }}",
    "{{ messages.__class__.__base__.__subclasses__()[100]('touch CANARY') }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "{{ strftime_now.__globals__.__builtins__.__import__('os').system('touch CANARY') }}",
    "{{ '%s'.format.__self__.__class__ }}{{ ('a' ~ 'b').format.__globals__ }}",
    "{% include '../../../etc/passwd' %}",
    "{% for i in range(10**9) %}{{ i }}{% endfor %}",
    "{% set a = 'a' * 10**9 %}{{ a * 10**9 }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
]


def _code_in_folder(place: Path, file: str, key: str) -> None:
    """`auto_map`: what trust_remote_code would import."""
    path = place / "model" / file
    fields = json.loads(path.read_text())
    fields[key] = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "evil.Evil")
    path.write_text(json.dumps(fields))
    (place / "model" / "evil.py").write_text(f"open({str(place / CANARY)!r}, 'w').close()\nclass Evil: pass\n")


def _weight_map(place: Path, name: str) -> None:
    header = place / "model" / "model.safetensors"
    shutil.copy(header, place.parent / "outside.safetensors")
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    index = {"weight_map": dict.fromkeys(names, name)}
    (place / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    header.unlink()


def _safetensors(place: Path, header: Any) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (place / "model" / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))


def _tar(place: Path, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    with tarfile.open(place / "questions.tar", "w") as archive:
        if link and kind == tarfile.SYMTYPE:
            first = tarfile.TarInfo("cmmlu")
            first.type, first.linkname = tarfile.SYMTYPE, link
            archive.addfile(first)
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = (kind, link, 0) if kind != tarfile.SYMTYPE else (b"0", "", 4)
        if kind == tarfile.REGTYPE:
            member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"[: member.size]))


def _zip(place: Path, name: str, size: int = 4) -> None:
    with zipfile.ZipFile(place / "questions.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\0" * size)


def _spec(folder: Path, name: str) -> str:
    return name.replace("OUTSIDE", str(folder)) if isinstance(name, str) else name


def cases() -> list[Case]:
    """Pickles in every carrier, templates, folders with code, headers, archives, names."""
    found = []
    names = list(gadgets(Path()))
    for number, (carrier, (plant, tools)) in enumerate(CARRIERS.items()):
        for at, gadget in enumerate(names if len(tools) > 1 else names[:4]):
            tool, words = tools[(at + number) % len(tools)]
            run = partial(attacked, partial(_pickled, plant, gadget), tool, words)
            found.append(Case(name=f"{carrier}: {gadget}, {tool}", kind=f"pickle in {carrier}", run=run))
    for number, text in enumerate(TEMPLATES):
        inspect = ("data inspect", ("chat.jsonl", "--tokenizer", "tokenizer", "--sample", "0"))
        sft = ("data sft", ("chat.jsonl", "LLama3Tokenizer", "160", "out", "tokenizer"))
        tool, words = (inspect, sft)[number % 2]
        run = partial(attacked, partial(_template, text), tool, words)
        found.append(Case(name=f"template {number}", kind="chat template", run=run))
    for file, key in (("config.json", "auto_map"), ("tokenizer_config.json", "auto_map")):
        for tool, words in (
            CONVERT,
            ("evaluate", ("model", "cmmlu", "questions", "--output", "out", "--cache", "cache")),
            ("data sft", SFT_WITH_MODEL),
        ):
            run = partial(attacked, lambda place, _, f=file, k=key: _code_in_folder(place, f, k), tool, words)
            found.append(Case(name=f"code in a model folder: {file}, {tool}", kind="code in a model folder", run=run))
    for name in (
        "../outside.safetensors",
        "OUTSIDE/outside.safetensors",
        "a/../../outside.safetensors",
        "\0",
        "x" * 300,
    ):
        plant = partial(lambda place, folder, name: _weight_map(place, _spec(folder, name)), name=name)
        found.append(
            Case(
                name=f"index names {str(name)[:40]!r}", kind="names in an index", run=partial(attacked, plant, *CONVERT)
            )
        )
    for name, header in HEADERS.items():
        plant = partial(lambda place, folder, header: _safetensors(place, header), header=header)
        found.append(Case(name=f"header {name}", kind="safetensors header", run=partial(attacked, plant, *CONVERT)))
    for name, plant in ARCHIVES.items():
        run = partial(attacked, plant, "prepare_data", ("questions.zip" if "zip" in name else "questions.tar",))
        found.append(Case(name=f"archive {name}", kind="archive", run=run))
    return found


SFT_WITH_MODEL = ("chat.jsonl", "LLama3Tokenizer", "160", "out", "model")
ONE = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
HEADERS = {
    "overlaps": {"a": ONE, "b": {**ONE, "data_offsets": [8, 24]}},
    "beyond the file": {"a": {**ONE, "shape": [1 << 30], "data_offsets": [0, 1 << 32]}},
    "negative": {"a": {**ONE, "data_offsets": [-16, 0]}},
    "deep": b'{"a":' * 100_000,
    "names climb": {"../../evil": ONE, "\x1b[2J": {**ONE, "data_offsets": [16, 32]}},
    "twice": b'{"a": %(one)s, "a": %(one)s}' % {b"one": json.dumps(ONE).encode()},
}
Plant = Callable[[Path, Path], None]
ARCHIVES: dict[str, Plant] = {
    "tar climbs": lambda place, folder: _tar(place, "../../evil.csv"),
    "tar absolute": lambda place, folder: _tar(place, f"{folder}/evil.csv"),
    "tar link and file": lambda place, folder: _tar(place, "cmmlu/evil.csv", tarfile.SYMTYPE, str(folder)),
    "tar hard link": lambda place, folder: _tar(place, "cmmlu/a", tarfile.LNKTYPE, f"{place}/text.jsonl"),
    "tar device": lambda place, folder: _tar(place, "cmmlu/a", tarfile.CHRTYPE),
    "tar pipe": lambda place, folder: _tar(place, "cmmlu/a", tarfile.FIFOTYPE),
    "zip climbs": lambda place, folder: _zip(place, "../../evil.csv"),
    "zip absolute": lambda place, folder: _zip(place, f"{folder}/evil.csv"),
    "zip of a great size": lambda place, folder: _zip(place, "cmmlu/a.csv", 1200 << 20),
    "zip with backslashes": lambda place, folder: _zip(place, "..\\..\\evil.csv"),
}


def _pickled(plant: Callable[[Path, Any], None], gadget: str, place: Path, folder: Path) -> None:
    plant(place, gadgets(place / CANARY)[gadget])


def _template(text: str, place: Path, folder: Path) -> None:
    path = place / "tokenizer" / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | {"chat_template": text.replace("CANARY", str(place / CANARY))}
    path.write_text(json.dumps(fields))


def attacked(plant: Plant, tool: str, words: tuple[str, ...], folder: Path) -> Outcome:
    """Plant something, run a tool over it, and look for what it must not have done."""
    place = folder / "inner" / "place"
    place.parent.mkdir()
    shutil.copytree(template(), place)
    random.seed(0)
    plant(place, folder)
    before = _snapshot(folder, place)
    refused = _resume(place, folder) if tool == "train" else _tool(tool, words, place)
    if isinstance(refused, str):
        return Outcome(problem=refused)
    if any(path.name == CANARY for path in folder.rglob(CANARY)):
        return Outcome(problem=f"it was executed by {tool}")
    if (after := _snapshot(folder, place)) != before:
        return Outcome(problem=f"written outside: {sorted(set(after) ^ set(before))[:5]}")
    return Outcome(noticed=int(refused), survived=1)


def _tool(tool: str, words: tuple[str, ...], place: Path) -> bool | str:
    said = run_tool(tool, words, place, isolated=False)
    return said.problem() or bool(said.status)


def _resume(place: Path, folder: Path) -> bool | str:
    """Go on with the run whose folder somebody has prepared: more iterations, so that there is something to do."""
    whole = undisturbed()
    run = Job(world=whole.world, output=place / "run", iterations=10, save_interval=2, background=False)
    started = STARTER.start(run.values, run.environ, folder / "inner" / "screen")
    try:
        status = started.wait(LONGEST)
    finally:
        started.end()
    if status is None:
        return "the run hangs"
    return bool(status) or any(word in started.said() for word in ("refused", "damaged", "set aside"))


def _snapshot(folder: Path, place: Path) -> dict[str, int]:
    """Files of a folder, besides those of the tool's own."""
    return {
        str(path): path.stat().st_size if path.is_file() else 0
        for path in folder.rglob("*")
        if place not in (path, *path.parents) and path.name != "screen"
    }


PART = Part(
    name="hostile",
    title="Hostile files",
    goal=80,
    must="nothing that a file names is executed, and nothing is written outside of the tool's folder",
    how="Pickles in each place from which a checkpoint is read, chat templates, model folders with code, names and "
    "headers of safetensors, archives; each would leave a file behind.",
    cases=cases,
    short=8,
)
