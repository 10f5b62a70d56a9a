"""Rows of GPU benchmarks, planned as on machines that are not here: the driver takes each of them, and it fits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_cases import CUT_SHAPES, SUITES, Case
from benchmarks.gpu_targets import TARGETS
from benchmarks.pretend import pretend_gpus
from megatron_patch.launch import environment

from ..launch.conftest import write_idxmap, write_tokenizer

ROOT = Path(__file__).resolve().parents[2]
TOO_LARGE: dict[str, set[str]] = {"h200": set(), "h100": {"four-dp", "dp2-why", "beside-bridge", "wide-141"}}
"""Suites that this card does not hold."""
NEVER = {"smoke-fails"}
"""Rows that are made to be refused."""


def plans(suites: str, gpus: str, folder: Path) -> dict[str, str]:
    """Status of each row, by name."""
    write_tokenizer(folder / "tokenizer")
    data = write_idxmap(folder / "text")
    write_idxmap(folder / "sft", length=2 * 4096)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (folder / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    where = ["--tokenizer", folder / "tokenizer", "--data", data, "--conversations", folder / "chat.jsonl"]
    where += ["--sft-data", folder / "sft", "--out", folder / "out", "--gpus", gpus]
    command = [sys.executable, "benchmarks/train_gpu.py", suites, "--plan", *map(str, where)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (folder / "out" / "results.json").exists(), ran.stderr
    return {row["name"]: row["status"] for row in json.loads((folder / "out" / "results.json").read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["h200", "h100"])
def test_the_driver_takes_every_target(kind: str, tmp_path: Path) -> None:
    fits = {name: cases for name, cases in TARGETS.items() if name not in TOO_LARGE[kind]}
    found = plans(",".join(fits), f"4x{kind}", tmp_path)
    assert set(found) == {case.name for cases in fits.values() for case in cases}
    assert {name: said for name, said in found.items() if not said.startswith("plan only: ")} == {}
    widest = fits["wide-141" if kind == "h200" else "wide-80"]
    for words in (found[case.name].split() for case in widest):  # plan only: 136.3 of 144.2 GB ...
        assert 0.86 * float(words[4]) < float(words[2]) <= float(words[4])


@pytest.mark.slow
def test_the_driver_takes_every_row(tmp_path: Path) -> None:
    found = plans(",".join(SUITES), "4xh200", tmp_path)
    refused = {name: said for name, said in found.items() if not said.startswith("plan only: ")}
    assert set(refused) == NEVER, refused


def test_names_are_used_once_and_sizes_exist() -> None:
    rows: dict[str, Case] = {}
    for suite in (SUITES | TARGETS).values():
        for case in suite:
            assert rows.setdefault(case.name, case) == case
    cut = {case.size for case in rows.values() if "-L" in case.size}
    assert cut <= set(CUT_SHAPES)


@pytest.mark.parametrize("words", ["H200", "0xH200", "9xH200", "4xV100", "x", ""])
def test_gpus_that_cannot_be_pretended(words: str) -> None:
    before = vars(environment)["installed_gpus"]
    with pytest.raises(ValueError, match="4xH200"):
        pretend_gpus(words)
    assert vars(environment)["installed_gpus"] is before
