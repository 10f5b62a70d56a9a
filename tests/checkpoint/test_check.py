"""The layer check: right checkpoints pass, and each way of being wrong is caught where it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.checkpoint.cli import main

from ..trainer import warm
from .models import DTYPES, FAMILIES, MODELS, SMALL, make_model
from .mutations import BY_FEATURE, CONFIGURATIONS, WEIGHTS, change_config, mutated, one_tensor_by_one_percent

WORKER = Path(__file__).with_name("check_worker.py")
ROOT = Path(__file__).resolve().parents[2]
DOOR = ROOT / "toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh"
PARTS_OF_A_LAYER, ENDS, MODES = 8, 2, 2
PLAIN = ("Llama 2", "SmolLM2", "YaRN", *FAMILIES)
"""Other models whose right checkpoint passes."""
OF_FAMILIES = [
    (name, mutation)
    for name, shape in FAMILIES.items()
    for feature, mutations in BY_FEATURE.items()
    for mutation in mutations
    if getattr(shape, feature)
]
WRITTEN = ("good fp16", "zero_final_norm")
"""Those whose report is written into files too."""
QUIET = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("source") / "hf", SMALL)


def converted(hf: Path, target: Path, precision: str = "bf16") -> Path:
    assert main(["--source", str(hf), "--output-path", str(target), "--precision", precision]) == 0
    return target


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[int | None, str]]:
    """Layer and part that the check must name, by mutation."""
    return {}


@pytest.fixture(scope="module")
def found(hf: Path, expected: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What the check says of every checkpoint, by its name."""
    folder = tmp_path_factory.mktemp("checks")
    jobs = {f"good {precision}": (converted(hf, folder / precision, precision), precision) for precision in DTYPES}
    for mutation in WEIGHTS:
        wrong = folder / mutation.__name__
        expected[mutation.__name__] = mutated(hf, wrong, mutation)
        jobs[mutation.__name__] = (converted(wrong, wrong / "megatron"), "bf16")
    for name, (change, *where) in CONFIGURATIONS.items():
        shutil.copytree(folder / "bf16", folder / name)
        change_config(folder / name, change)
        expected[name] = tuple(where)
        jobs[name] = (folder / name, "bf16")
    asked = {n: {"hf": str(hf), "megatron": str(path), "precision": p} for n, (path, p) in jobs.items()}
    broken = {}
    for name in PLAIN:
        try:
            asked |= others(folder, name, expected)
        except Exception:
            broken |= {key: {"broken": traceback.format_exc()} for key in pairs_of(name)}
    for name in WRITTEN:
        asked[name]["written"] = True
    return Found(worked(folder, asked) | broken)


def worked(folder: Path, jobs: dict[str, dict], *, processes: int = 1) -> dict[str, dict]:
    """What check_worker.py finds."""
    folder.mkdir(exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    files = [str(folder / "jobs.json"), str(folder / "found.json")]
    status = warm.run(WORKER, files, processes=processes, environ=QUIET, screen=folder / "screen", timeout=500)
    assert status == 0, (folder / "screen.err").read_text()[-3000:]
    return json.loads((folder / "found.json").read_text())


class Found(dict):
    """By name. A model that could not be made, converted or checked fails its own tests and no others."""

    def __getitem__(self, name: str) -> dict:
        found = super().__getitem__(name)
        return pytest.fail(found["broken"]) if "broken" in found else found


def pairs_of(name: str) -> dict[str, Callable | None]:
    """Of another model the right checkpoint, and the wrong ones of what it has beyond Llama."""
    return {f"good {name}": None, **{f"{name} {m.__name__}": m for family, m in OF_FAMILIES if family == name}}


def others(folder: Path, name: str, expected: dict) -> dict[str, dict[str, str]]:
    """Make them; what the check is asked."""
    right, asked = make_model(folder / name / "hf", MODELS[name]), {}
    for key, mutation in pairs_of(name).items():
        made = right
        if mutation is not None:
            made = folder / key
            expected[key] = mutated(right, made, mutation)
        asked[key] = {
            "hf": str(right),
            "megatron": str(converted(made, folder / f"{key} megatron")),
            "precision": "bf16",
        }
    return asked


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_right_checkpoint_passes(found: dict[str, dict], precision: str) -> None:
    good = found[f"good {precision}"]
    assert good["passed"], good["table"]
    assert good["worst_fp32"] <= 1e-5
    each = 1 + MODES * (SMALL.num_layers * PARTS_OF_A_LAYER + ENDS)
    assert good["precisions"] == sorted({"fp32", precision})
    assert good["rows"] == each * len(good["precisions"])


@pytest.mark.parametrize("name", PLAIN)
def test_other_models_pass(found: dict[str, dict], name: str) -> None:
    assert found[f"good {name}"]["passed"], found[f"good {name}"]["table"]
    assert found[f"good {name}"]["worst_fp32"] <= 1e-5


@pytest.mark.parametrize(
    "name",
    [
        *(mutation.__name__ for mutation in WEIGHTS),
        *CONFIGURATIONS,
        *(f"{name} {mutation.__name__}" for name, mutation in OF_FAMILIES),
    ],
)
def test_a_wrong_one_is_caught_at_its_layer_and_part(found: dict[str, dict], expected: dict, name: str) -> None:
    wrong, (layer, part) = found[name], expected[name]
    assert not wrong["passed"]
    assert (wrong["first"]["layer"], wrong["first"]["part"]) == (layer, part), wrong["table"]
    assert f"first out of tolerance: {'model' if layer is None else f'layer {layer}'} {part}" in wrong["verdict"]


def test_a_configuration_that_differs_is_named_too(found: dict[str, dict]) -> None:
    (line,) = found["drop the RoPE scaling"]["configuration"]
    assert line.startswith("rope_scaling is llama3 factor 8.0") and line.endswith("in Megatron's None")


def test_report_is_json_and_a_picture(found: dict[str, dict]) -> None:
    written, picture = map(Path, found["zero_final_norm"]["files"])
    report = json.loads(written.read_text())
    assert report["passed"] is False and report["first_failure"]["part"] == "final_norm"
    assert {"max_abs", "relative_l2", "cosine", "tolerance", "passed"} <= report["rows"][0].keys()
    assert "3 sequences of 256 tokens" in report["tokens"]
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_processes_by_the_command(hf: Path, tmp_path: Path, tp: int, pp: int) -> None:
    """Exit 0 for the right checkpoint in several processes."""
    flags = [str(tp), str(pp), "false", "true", "false", "bf16"]
    command = ["sh", str(DOOR), "auto", str(hf), str(tmp_path / "good"), *flags]
    done = subprocess.run(command, env=QUIET, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "check passed" in done.stdout and f"{tp * pp} processes" in done.stdout


def test_a_wrong_one_in_two_processes_and_by_the_command(hf: Path, tmp_path: Path) -> None:
    """Both ranks find the layer; the command ends with 1."""
    good = converted(hf, tmp_path / "good")
    layer, part = mutated(hf, tmp_path / "wrong", one_tensor_by_one_percent)
    pair = {"hf": str(tmp_path / "wrong"), "megatron": str(good), "precision": "bf16", "tp": 2}
    two = worked(tmp_path / "two", {"wrong": pair}, processes=2)["wrong"]
    assert not two["passed"] and (two["first"]["layer"], two["first"]["part"]) == (layer, part), two
    argv = ["auto", str(tmp_path / "wrong"), str(good), "1", "1", "false", "true", "true", "bf16"]
    one = worked(tmp_path / "one", {"wrong": {"argv": argv}})["wrong"]
    assert one["status"] == 1, one
    assert f"first out of tolerance: layer {layer} {part}" in one["said"]
