"""The scripts of LM-Evaluation-Harness, as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from megatron_patch.checkpoint.cli import main as convert
from megatron_patch.checkpoint.hf_model import hf_model_of, remote_code
from megatron_patch.common.errors import UsageError
from megatron_patch.evaluation import results
from megatron_patch.evaluation.__main__ import main
from megatron_patch.evaluation.options import parse

from .conftest import HARNESS, ROOT


def sh(script: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the harness from some other folder."""
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["sh", str(HARNESS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=400, check=False)


@pytest.fixture(scope="module")
def converted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a Megatron checkpoint."""
    target = tmp_path_factory.mktemp("converted") / "mcore"
    assert convert(["--source", str(model), "--output-path", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def both(
    model: Path, converted: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The converted model evaluated against its original, on all 119 subjects."""
    folder = tmp_path_factory.mktemp("evaluated")
    arguments = (converted, "cmmlu,ceval-valid", questions, "--against", model, "--cache", folder / "cache")
    return folder, sh("evaluate.sh", *arguments, "--output", folder / "out", cwd=folder)


def test_a_converted_checkpoint_has_exactly_the_scores_of_its_original(both, model: Path) -> None:
    folder, done = both
    assert done.returncode == 0, done.stderr
    comparison = json.loads(next(folder.glob("out/*/comparison.json")).read_text())
    assert comparison["identical"]
    assert comparison["questions"] == 238
    assert comparison["answers_changed"] == comparison["largest_logprob_difference"] == 0
    assert len(comparison["subjects"]) == 119
    assert all(row["difference"] == 0 for row in comparison["subjects"])
    assert "exactly the same log-likelihoods on all 238 questions" in done.stdout
    first, second = (results.read(file.parent) for file in sorted(folder.glob("out/*/results.json")))
    assert first.answers == second.answers
    assert {first.summary["checkpoint"], second.summary["checkpoint"]} >= {str(model)}


def test_what_is_written(both) -> None:
    folder, done = both
    original = next(file.parent for file in folder.glob("out/base-*/results.json"))
    summary = json.loads((original / "results.json").read_text(encoding="utf-8"))
    assert [(group["group"], group["questions"]) for group in summary["groups"]] == [
        ("cmmlu", 134),
        ("ceval-valid", 104),
    ]
    assert len(summary["subjects"]) == 119
    assert summary["data"]["cmmlu"]["notes"][0] == "invented questions"
    right = sum(json.loads(line)["acc"] for line in (original / "per_question.jsonl").read_text().splitlines())
    assert right == pytest.approx(sum(group["acc"] * group["questions"] for group in summary["groups"]))
    table = (original / "results.md").read_text(encoding="utf-8")
    assert "| Agronomy 农学 | 2 |" in table
    assert "invented questions" in table
    for chart in folder.glob("out/*/*.svg"):
        assert "CMMLU" in "".join(ET.parse(chart).getroot().itertext())
    assert "invented questions" in done.stdout, "nobody is told that the scores mean nothing"


def test_an_export_is_made_once(both, converted: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, done = both
    assert f"exporting {converted.resolve()}" in done.stdout
    again = hf_model_of(converted, None, folder / "cache")
    assert "was exported before" in capfd.readouterr().out
    assert again.folder.parent == folder / "cache/exported"
    assert again.identity != hf_model_of(model).identity


def test_pais_command(model: Path, questions: Path, tmp_path: Path) -> None:
    """`accelerate launch -m lm_eval` inside LM-Evaluation-Harness, unmodified, with no network; two subjects."""
    pais_command(model, questions, tmp_path, "cmmlu_agronomy,ceval-valid_law")


@pytest.mark.slow
def test_pais_command_in_full(model: Path, questions: Path, tmp_path: Path) -> None:
    """With both groups, as Pai-Megatron-Patch has it."""
    pais_command(model, questions, tmp_path, "cmmlu,ceval-valid")


def pais_command(model: Path, questions: Path, tmp_path: Path, tasks: str) -> None:
    harness = tmp_path / "LM-Evaluation-Harness"
    listed = subprocess.run(["git", "ls-files", "LM-Evaluation-Harness"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for hub, name, splits in (("haonan-li/cmmlu", "cmmlu", "dev test"), ("ceval/ceval-exam", "ceval", "dev val")):
        for split in splits.split():
            (harness / hub / split).symlink_to(questions / name / split)
    command = [
        *("-m", "accelerate.commands.launch", "--main_process_port", "0", "-m", "lm_eval", "--model", "hf"),
        *("--model_args", f"pretrained={model},trust_remote_code=True", "--tasks", tasks, "--batch_size", "16"),
        *("--log_samples", "--output_path", "out"),  # beyond the tutorial's, to read the answers
    ]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=harness, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = {}
    for file in harness.glob("out/*/samples_*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            task = file.name.removeprefix("samples_").rsplit("_", 1)[0]
            scores = [float(answer[0]) for answer in sample["filtered_resps"]]
            theirs[task, sample["doc_id"]] = (sample["prompt_hash"], sample["doc_hash"], scores)
    assert main([str(model), tasks, str(questions), "--output", str(tmp_path / "ours")]) == 0
    for answer in results.read(tmp_path / "ours").answers:
        prompt, doc, scores = theirs.pop((answer["task"], answer["doc_id"]))
        assert (answer["prompt_hash"], answer["doc_hash"]) == (prompt, doc)
        assert answer["logprobs"] == scores
    assert not theirs


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (["/nowhere"], ["CHECKPOINT: /nowhere is not a folder"]),
        ([".", "mmlu,cmmlu", "/x"], ["TASKS: cmmlu with mmlu", "DATA: /x does not exist"]),
        ([".", "--limit", "0", "--scoring", "fast"], ["--scoring: 'fast'", "--limit: '0'"]),
        ([".", ",", "--dtype", "fp8"], ["TASKS: is empty", "--dtype: 'fp8'"]),
        ([".", "--against", "/a", "--hf-path", "/b"], ["--against: /a is not", "--hf-path: /b is not"]),
    ],
)
def test_bad_command_lines(arguments: list[str], problems: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(arguments)
    assert len(caught.value.problems) == len(problems)
    for said, expected in zip(caught.value.problems, problems, strict=True):
        assert said.startswith(expected)


def test_refusals_have_status_2(model: Path, questions: Path, tmp_path: Path) -> None:
    """A folder that is no checkpoint; no data."""
    done = sh("evaluate.sh", tmp_path, "cmmlu", questions, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no config.json with *.safetensors" in done.stderr
    done = sh("evaluate.sh", model, "cmmlu", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "CMMLU: no test/SUBJECT.csv" in done.stderr


def test_output_is_tried_before_anything_is_scored(
    model: Path, questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(model), "ceval-valid_law", str(questions), "--output", str(tmp_path / "file/out")]) == 2
    said = capfd.readouterr()
    what = f"--output: {tmp_path}/file/out cannot be written: Not a directory"
    assert said.err == f"error: {what} [folder-unwritable]\n"
    assert "Law" not in said.out


def test_results_are_kept_where_their_place_is_lost(both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder could be written before, and is gone when the scores are there."""
    folder, _ = both
    evaluation = results.read(next(file.parent for file in folder.glob("out/*/results.json")))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "out").write_text("")
    with pytest.raises(results.Unwritten, match="what was to be written is in") as caught:
        results.write(evaluation, tmp_path / "out")
    kept = Path(str(caught.value).rsplit(" ", 1)[1])
    assert results.read(kept).answers == evaluation.answers
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(results.Unwritten, match="nowhere cannot be written"):
        results.write(evaluation, tmp_path / "out")


def damaged(model: Path, folder: Path, name: str, content: bytes) -> str:
    """A copy of the model with another file."""
    shutil.copytree(model, folder)
    (folder / name).write_bytes(content)
    return str(folder)


def test_checkpoints_that_cannot_be_scored(
    model: Path, questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One sentence each, and no results."""
    torn = damaged(model, tmp_path / "torn", "model.safetensors", (model / "model.safetensors").read_bytes()[:5000])
    empty = damaged(model, tmp_path / "empty", "config.json", b"{")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    lost = damaged(model, tmp_path / "lost", "model.safetensors", save(weights, {"format": "pt"}))
    for folder, problem in (
        (torn, f"CHECKPOINT: {torn} cannot be loaded on cpu: "),
        (empty, f"CHECKPOINT: {empty}/config.json is not what transformers writes: "),
        (lost, f"CHECKPOINT: {lost} gives NaN or inf as log-likelihood in 2 of 2 questions"),
    ):
        assert main([folder, "ceval-valid_law", str(questions), "--output", f"{folder}/out", "--device", "cpu"]) in (
            1,
            2,
        )
        said = capfd.readouterr().err
        assert problem in said, said
        assert "Traceback" not in said
        assert not list(Path(folder).glob("out/*"))


def test_code_that_a_checkpoint_brings_is_listed(tmp_path: Path) -> None:
    (tmp_path / "modeling_x.py").write_text("print('ran')")
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling_x.X"}}))
    tokenizer = {"auto_map": {"AutoTokenizer": ["there/repo--tokenization.T", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    lines = remote_code(tmp_path)
    assert len(lines) == 3
    assert "modeling_x.py (12 bytes, sha256 " in lines[0]
    assert lines[1:] == [
        "config.json maps AutoModel to modeling_x.X",
        "tokenizer_config.json maps AutoTokenizer to there/repo--tokenization.T",
    ]


def test_remote_code_runs_only_if_asked(
    model: Path, questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint whose code leaves a trace."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    (folder / "manifest.json").unlink()
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "traced.TracedLlama"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "traced.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'trace')!r}).touch()\n"
        "from transformers import LlamaForCausalLM\nclass TracedLlama(LlamaForCausalLM): pass\n"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    arguments = [str(folder), "ceval-valid_law", str(questions), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    said = capfd.readouterr().out
    assert "is NOT run" in said
    assert "| Law | 2 |" in said
    assert not (tmp_path / "trace").exists()
    assert main([*arguments, "--trust-remote-code"]) == 0
    said = capfd.readouterr().out
    assert "will run" in said
    assert "traced.py (" in said
    assert "config.json maps AutoModelForCausalLM to traced.TracedLlama" in said
    assert (tmp_path / "trace").exists(), "code that was asked for did not run"


def test_compare_and_its_refusal(both, tmp_path: Path) -> None:
    folder, _ = both
    first, second = sorted(file.parent for file in folder.glob("out/*/results.json"))
    done = sh("compare.sh", first, second, "--output", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "comparison.md").is_file()
    changed = tmp_path / "changed"
    evaluation = results.read(first)
    evaluation.summary["settings"]["num_fewshot"] = 5
    results.write(evaluation, changed)
    done = sh("compare.sh", changed, second, cwd=tmp_path)
    assert done.returncode == 2
    assert "num_fewshot: 5 against 0; they must be the same" in done.stderr
    assert sh("compare.sh", tmp_path, second, cwd=tmp_path).returncode == 2


def test_the_data_scripts_write_data_or_exit_with_2(tmp_path: Path) -> None:
    done = sh("make_synthetic_data.sh", "made", "--questions", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made/cmmlu/test/agronomy.csv").is_file()
    assert sh("make_synthetic_data.sh", "made", "--questions", "0", cwd=tmp_path).returncode == 2
    done = sh("prepare_data.sh", tmp_path / "nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert "does not exist" in done.stderr
