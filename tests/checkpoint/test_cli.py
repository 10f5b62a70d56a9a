"""The command line of the converter: both forms, help, lists, what it refuses, and what a dry run says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from megatron_patch.checkpoint import cli, random_model
from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.converter import job
from megatron_patch.checkpoint.converter.options import FLAGS, Usage, parse
from megatron_patch.checkpoint.converter.positions import POSITIONS
from megatron_patch.data.tokenizers.folder import count_ids_of
from megatron_patch.data.train_tokenizer import save, train

from .models import SMALL, make_model, read_weights, same_bits

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh"
FOLDER = Path("/mnt/llama3-ckpts/Meta-Llama-3.1-8B")
TO_MEGATRON = ["8B", str(FOLDER), f"{FOLDER}/mcore-tp4-pp2", "4", "2", "false", "true", "false", "bf16"]
TO_HF = [
    "8B",
    f"{FOLDER}/mcore-tp4-pp2",
    f"{FOLDER}/hf-from-mg",
    "4",
    "2",
    "true",
    "true",
    "false",
    "bf16",
    str(FOLDER),
]


def shell(shell_name: str, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHON": sys.executable}
    command = [shell_name, str(SCRIPT), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_pais_commands_are_understood_as_they_stand() -> None:
    there, back = parse(TO_MEGATRON), parse(TO_HF)
    assert (there.direction, there.size, there.tp, there.pp, there.check, there.check_only, there.precision) == (
        ("hf2mcore", "8B", 4, 2, True, False, "bf16")
    )
    assert (back.direction, back.hf_path, back.source) == ("mcore2hf", FOLDER, FOLDER / "mcore-tp4-pp2")


def test_named_flags_mean_the_same_as_positions() -> None:
    words = ["--source", str(FOLDER), "--output-path", f"{FOLDER}/mcore-tp4-pp2", "--model-name", "8B", "--check"]
    assert parse([*words, "--tp", "4", "--pp", "2", "--precision", "bf16"]) == parse(TO_MEGATRON)
    assert parse([*TO_MEGATRON, "--overwrite", "--dry-run"]).overwrite
    assert parse([*TO_MEGATRON, "--check-only"]).check_only, "as `megatron-patch check` adds it"


BAD: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "--source is missing"),
    "too few": (TO_MEGATRON[:7], "missing: position 8 CHECK_ONLY, 9 PR"),
    "too many": ([*TO_HF, "more"], "11 values where 9 or 10 are needed"),
    "size": (["9B", *TO_MEGATRON[1:]], 'position 1 MODEL_SIZE: unknown value: is "9B"; valid: tiny, 1B'),
    "empty source": (["8B", "", *TO_MEGATRON[2:]], "position 2 SOURCE_CKPT_PATH: empty"),
    "TP": ([*TO_MEGATRON[:3], "0", *TO_MEGATRON[4:]], "position 4 TP: out of range"),
    "PP": ([*TO_MEGATRON[:4], "two", *TO_MEGATRON[5:]], "position 5 PP: not a whole number"),
    "mg2hf": ([*TO_MEGATRON[:5], "no", *TO_MEGATRON[6:]], "position 6 mg2hf: neither true nor false"),
    "PR": ([*TO_MEGATRON[:8], "fp8"], 'position 9 PR: unknown value: is "fp8"; valid: fp32, fp16, bf16'),
    "unknown flag": ([*TO_MEGATRON, "--force"], "unrecognized arguments: --force"),
    "said twice": ([*TO_MEGATRON, "--tp", "2"], "positions and --tp say the same"),
    "said twice at the end": ([*TO_HF, "--hf-path", "x"], "positions and --hf_path say the same"),
    "model name": (["--source", "a", "--output-path", "b", "--model-name", "8b"], "nearest: 8B"),
    "direction": (["--source", "a", "--output-path", "b", "--direction", "up"], "valid: hf2mcore, mcore2hf"),
    "shard size": ([*TO_HF, "--max-shard-size", "5"], 'not a size: is "5"; valid: a size such as 5GB'),
    "iteration": ([*TO_MEGATRON, "--iteration", "3"], "--iteration is for Megatron sources only"),
    "per rank and check": ([*TO_MEGATRON, "--per-rank-files"], "the check holds torch_dist against Hugging Face"),
    "source": (TO_MEGATRON, "no such folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_command_line_is_exit_2_and_names_the_value(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = BAD[name]
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_all_problems_come_at_once() -> None:
    with pytest.raises(Usage, match=r"(?s)4 problems.*position 1 .*position 4 .*position 6 .*position 9 "):
        parse(["9B", "a", "b", "x", "1", "maybe", "true", "true", "int8"])


@pytest.mark.parametrize("shell_name", ["sh", "bash"])
def test_any_shell_from_any_folder(shell_name: str, tmp_path: Path) -> None:
    helped = shell(shell_name, "--help", cwd=tmp_path)
    assert helped.returncode == 0
    for number, position in enumerate(POSITIONS, 1):
        assert re.search(rf"{number} {position.name} ", helped.stdout)
    listed = shell(shell_name, "list", cwd=tmp_path)
    assert listed.returncode == 0 and all(size in listed.stdout for size in ("tiny", "1B", "3B", "8B", "70B", "405B"))
    link = tmp_path / "a link"
    link.symlink_to(SCRIPT)
    refused = subprocess.run(
        [shell_name, str(link), "8B", "; touch x", "$(touch y)"], cwd=tmp_path, capture_output=True
    )
    assert refused.returncode == 2 and not list(tmp_path.glob("[xy]"))


def test_refusal_needs_no_torch() -> None:
    code = (
        "import sys; from megatron_patch.checkpoint.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *TO_MEGATRON], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_dry_run_says_bytes_time_and_space_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = make_model(tmp_path / "hf", SMALL)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(cli, "PROBE_BYTES", 1 << 20)
    monkeypatch.setenv("DRY_RUN", "1")
    assert main(["--source", str(hf), "--output-path", str(tmp_path / "deep" / "target")]) == 0
    said = capsys.readouterr().out
    count = SMALL.num_parameters(512) * 2
    assert f"writes {count:,} bytes" in said
    assert re.search(r"takes about \d+ s at the [\d.]+ GB/s", said) and re.search(
        r"needs [\d.]+ GB of free space", said
    )
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = make_model(tmp_path / "hf", SMALL)
    monkeypatch.setattr(job, "free_bytes", lambda target: 1000)
    assert main(["--source", str(hf), "--output-path", str(tmp_path / "target")]) == 2
    assert "GB are needed and 0.00 GB are free" in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


def test_the_space_of_the_way_back_is_that_of_the_stored_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 needs no room for fp32; a dry run says so too."""
    hf, megatron, count = make_model(tmp_path / "hf", SMALL), tmp_path / "megatron", SMALL.num_parameters(500)
    assert main(["--source", str(hf), "--output-path", str(megatron)]) == 0
    command = ["--source", str(megatron), "--output-path", str(tmp_path / "back")]
    monkeypatch.setattr(job, "free_bytes", lambda target: 2 * count + (17 << 20))
    assert main([*command, "--dry-run"]) == 0
    assert f"writes {2 * count:,} bytes" in capsys.readouterr().out
    assert main(command) == 0
    monkeypatch.setattr(job, "free_bytes", lambda target: 2 * count)
    assert main([*command, "--overwrite"]) == 2
    assert "are needed" in capsys.readouterr().err


def test_a_training_output_folder_is_a_source(tmp_path: Path) -> None:
    """The newest iteration by default, another by number; config.json beside."""
    hf = make_model(tmp_path / "hf", SMALL)
    assert main(["--source", str(hf), "--output-path", str(tmp_path / "run" / "checkpoints")]) == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "release").rename(checkpoints / "iter_0000020")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("20")
    (checkpoints / "manifest.json").unlink()
    for name, more in (("newest", []), ("named", ["--iteration", "20"])):
        command = ["--source", str(tmp_path / "run"), "--direction", "mcore2hf", "--output-path", str(tmp_path / name)]
        assert main([*command, *more]) == 0
        after = read_weights(tmp_path / name)
        assert all(same_bits(tensor, after[key]) for key, tensor in read_weights(hf).items())


def test_manifest_lists_every_file_but_itself(tmp_path: Path) -> None:
    hf = make_model(tmp_path / "hf", SMALL)
    assert main(["--source", str(hf), "--output-path", str(tmp_path / "target")]) == 0
    manifest = json.loads((tmp_path / "target" / "manifest.json").read_text())
    files = {f.relative_to(tmp_path / "target").as_posix() for f in (tmp_path / "target").rglob("*") if f.is_file()}
    assert manifest["files"].keys() == files - {"manifest.json"}
    assert manifest["precision"] == "bf16" and manifest["algorithm"] == "sha256"


def test_a_new_model_replaces_a_checkpoint_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a folder with other things in it, nor a file."""
    (tmp_path / "mine").mkdir()
    for file, target in ((tmp_path / "mine" / "a", tmp_path / "mine"), (tmp_path / "b", tmp_path / "b")):
        file.touch()
        monkeypatch.setattr(sys, "argv", ["new-model", "tiny", str(target), "--vocab-size", "512"])
        with pytest.raises(SystemExit):
            random_model.main()
        assert file.exists()


@pytest.mark.parametrize("size", ["qwen2_5-tiny", "tiny"])
def test_a_new_model_has_a_row_for_each_id_of_its_tokenizer(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside Qwen2.5's config.json transformers adds a token, for which there was no row: no run started from it."""
    (tmp_path / "text.jsonl").write_text('{"text": "a few words to learn letters from"}\n' * 50)
    save(train([tmp_path / "text.jsonl"], vocab_size=300), tmp_path / "tokenizer")
    monkeypatch.setattr(sys, "argv", ["x", size, str(tmp_path / "hf"), "--tokenizer", str(tmp_path / "tokenizer")])
    random_model.main()
    rows = json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"]
    assert rows == count_ids_of(tmp_path / "hf") == len(AutoTokenizer.from_pretrained(tmp_path / "hf"))


@pytest.mark.parametrize("named", [True, False])
def test_errors_call_values_as_they_were_typed(named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flags for whoever types flags, the names of the positions for the others."""
    source, bare, target = make_model(tmp_path / "hf", SMALL), tmp_path / "mcore", str(tmp_path / "out")
    assert main(["--source", str(source), "--output-path", str(bare), "--direction", "hf2mcore"]) == 0
    for name in ("config.json", "tokenizer_config.json"):
        (bare / name).unlink(missing_ok=True)

    def said(size: str, of: Path, *, tp: str = "1", back: bool = False, check_only: bool = False) -> str:
        capsys.readouterr()
        if named:
            flags = ["--check-only"] if check_only else ["--check"]
            direction = "mcore2hf" if back else "hf2mcore"
            words = ["--model-name", size, "--source", str(of), "--output-path", target, "--tp", tp, *flags]
            assert main([*words, "--direction", direction, "--no-verify"]) == 2
        else:
            answers = [str(back).lower(), "true", str(check_only).lower()]
            assert main([size, str(of), target, tp, "1", *answers, "bf16", "--no-verify"]) == 2
        return capsys.readouterr().err

    spelled = FLAGS if named else {name: name for name in FLAGS}
    assert f"one with {spelled['HF_CKPT_PATH']}\n" in said("auto", bare, back=True)
    assert f"{spelled['TP']} is 3: " in said("auto", source, tp="3")
    assert f"{spelled['CHECK_ONLY']} compares" in said("auto", source, check_only=True)
    assert f"{spelled['MODEL_SIZE']} 8B" in said("8B", source)
