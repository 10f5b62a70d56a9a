"""The commands in toolkits/sft_data_preprocessing, as people type them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.data.sft import build_idxmap, inspection
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.idxmap import open_idxmap

SCRIPTS = Path(__file__).resolve().parents[3] / "toolkits" / "sft_data_preprocessing"
ROWS = [{"instruction": f"question {i}", "input": "", "output": f"answer {i}", "id": i} for i in range(30)]


@pytest.fixture
def data(tmp_path: Path, write_json_lines: Callable[[Path, list[Any]], Path]) -> Path:
    return write_json_lines(tmp_path / "with space.jsonl", [*ROWS, {"instruction": "no answer", "output": ""}])


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": ""}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_script_builds_verify_and_inspect_read(
    data: Path, tokenizer_folder: Path, tmp_path: Path, tokenizer: ChatTokenizer, shell: str
) -> None:
    output = tmp_path / "out put" / "alpaca"
    script = str(SCRIPTS / "run_build_idxmap_sft_dataset.sh")
    command = [shell, script, str(data), "LLama3Tokenizer", "256", str(output), str(tokenizer_folder), "true"]
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    prefix = f"{output}_text_document"
    assert "30 of 31 rows used" in done.stdout and "output is empty" in done.stdout
    assert sorted(path.name for path in output.parent.iterdir()) == [
        f"alpaca_text_document{suffix}" for suffix in (".bin", ".idx", ".sft.json")
    ]
    assert len(open_idxmap(prefix, 256, tokenizer)[0].lengths) == 30
    if shell == "bash":
        return  # the other scripts are Python's
    again = run(*command, cwd=tmp_path)
    assert again.returncode == 2 and "--overwrite replaces it" in again.stderr
    verified = run(
        sys.executable, str(SCRIPTS / "verify.py"), prefix, "--tokenizer", str(tokenizer_folder), cwd=tmp_path
    )
    assert verified.returncode == 0 and "whole" in verified.stdout, verified.stderr + verified.stdout
    options = ["--tokenizer", str(tokenizer_folder), "--seq-length", "256", "--kind", "idxmap", "--plot", "p.png"]
    shown = run(sys.executable, "inspect.py", prefix, *options, "--plot", str(tmp_path / "p.png"), cwd=SCRIPTS)
    assert shown.returncode == 0, shown.stderr
    assert "⟦answer" in shown.stdout and (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_all_wrong_values_in_one_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path / "none.json"), "GPT2", "1", "x/", str(tmp_path), "--max-lost", "2", "--workers", "-1"]
    assert build_idxmap.main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    names = ["1 INPUT", "2 TOKENIZER_NAME", "3 SEQ_LEN", "4 OUTPUT_PREFIX", "5 LOAD_DIR", "--max-lost", "--workers"]
    assert [line.split(":")[1].strip() for line in errors] == names


def test_too_much_lost_writes_nothing(
    tokenizer_folder: Path, tmp_path: Path, write_json_lines: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_json_lines(tmp_path / "data.jsonl", [ROWS[0], {"instruction": "x", "output": ""}])
    arguments = [str(data), "LLama3Tokenizer", "256", str(tmp_path / "out"), str(tokenizer_folder), "--workers", "1"]
    assert build_idxmap.main(arguments) == 1
    assert "50.0% of the rows are lost; allowed 10.0%" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
    assert build_idxmap.main([*arguments, "--max-lost", "0.5"]) == 0


@pytest.mark.parametrize(
    "words",
    ["--line 1 --row 2", "--line 1 --plot a.png --report b.json", "--kind idxmap --loss last --turns one-by-one"],
)
def test_inspect_refuses_what_it_would_ignore(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        inspection.main(["data", "--tokenizer", "folder", *words.split()])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert all(word in last for word in words.split()[2::2])


def test_inspect_shows_what_is_trained_on(
    data: Path, tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--tokenizer", str(tokenizer_folder), "--cache", str(tmp_path / "cache"), "--workers", "1"]
    assert inspection.main([str(data), *options, "--sample", "3", "--report", str(tmp_path / "r.json")]) == 0
    out = capsys.readouterr().out
    assert "user<|end_header_id|>\n\nquestion 3<|eot_id|>" in out
    assert "assistant<|end_header_id|>\n\n⟦answer 3<|eot_id|>⟧" in out
    assert f"sample 3, {data}:4:" in out and "keys not read: id" in out and "median" not in out
    assert (tmp_path / "r.json").is_file()
    assert inspection.main([str(data), *options, "--sample", "0", "--color", "always"]) == 0
    assert "\x1b[32manswer 0<|eot_id|>\x1b[0m" in capsys.readouterr().out
    packed = ["--row", "0", "--packing", "--cp", "2", "--seq-length", "512"]
    assert inspection.main([str(data), *options, *packed]) == 0
    out = capsys.readouterr().out
    assert "cu_seqlens [0, " in out and ", 512]" in out and "row 0: " in out
    assert inspection.main([str(data), *options, "--sample", "99"]) == 1
    assert "samples are 0 to 29" in capsys.readouterr().err
