"""The NeMo tutorials' commands on local data: preprocessing, and the download helpers with a local copy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.data import download
from megatron_patch.data.sft.formats import recognise
from megatron_patch.data.verify import verify
from megatron_patch.nemo import data as nemo

TOOLKITS = Path(__file__).resolve().parents[2] / "toolkits"
ROWS = [{"id": str(i), "text": f"文章 {i} 中華民國"} for i in range(20)]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("flag", ["--ht-tokenizer", "--hf-tokenizer"])
def test_preprocess_data_sh(tokenizer_folder: Path, tmp_path: Path, flag: str) -> None:
    """One tutorial's command; it spells the first flag `--ht-tokenizer`."""
    name = "zh_classicalwiki-20231101-pages-articles-multistream"
    write_lines(tmp_path / "data" / f"{name}.jsonl", ROWS)
    script = TOOLKITS / "pretrain_data_preprocessing" / "preprocess_data.sh"
    values = [
        flag,
        tokenizer_folder,
        "--data-prefix",
        name,
        "--input-dir",
        "data",
        "--output-dir",
        "out",
        "--workers",
        1,
    ]
    done = run("bash", script, *values, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in (tmp_path / "out" / "preprocessed").iterdir())
    assert found == [f"{name}_text_document.{suffix}" for suffix in ("bin", "build.json", "idx")]
    assert verify(str(tmp_path / "out" / "preprocessed" / f"{name}_text_document")).wrong == []


def test_preprocess_data_for_megatron(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Another tutorial's command."""
    write_lines(tmp_path / "data/custom_dataset/json/wikinews-zhtw.jsonl", ROWS)
    script = TOOLKITS / "pretrain_data_preprocessing" / "preprocess_data_for_megatron.py"
    values = [
        "--input=data/custom_dataset/json/wikinews-zhtw.jsonl", "--json-keys=text", "--dataset-impl", "mmap",
        "--tokenizer-library=huggingface", "--tokenizer-type", tokenizer_folder,
        "--output-prefix=data/custom_dataset/preprocessed/wikinews", "--append-eod",
    ]  # fmt: skip
    done = run(sys.executable, script, *values, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    prefix = tmp_path / "data/custom_dataset/preprocessed/wikinews_text_document"
    assert verify(str(prefix)).wrong == []
    assert json.loads(Path(f"{prefix}.build.json").read_text())["eod"] is not None


def test_what_the_commands_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_lines(tmp_path / "a.jsonl", ROWS)
    write_lines(tmp_path / "a.json", ROWS)
    common = ["--hf-tokenizer", str(tmp_path), "--output-dir", str(tmp_path), "--input-dir", str(tmp_path)]
    assert nemo.preprocess_data([*common, "--data-prefix", "none"]) == 2
    assert "[nemo-data-file]" in capsys.readouterr().err
    assert nemo.preprocess_data([*common, "--data-prefix", "a"]) == 2
    assert "a.jsonl, a.json [nemo-data-files]" in capsys.readouterr().err
    values = ["--input", str(tmp_path / "a.jsonl"), "--output-prefix", str(tmp_path / "x")]
    assert nemo.preprocess_data_for_megatron([*values, "--tokenizer-library=sentencepiece"]) == 2
    assert "needs --tokenizer-model [nemo-tokenizer-flag]" in capsys.readouterr().err
    assert nemo.preprocess_data_for_megatron([*values, "--tokenizer-type", "no-such/tokenizer"]) == 2
    assert "[hub-fails]" in capsys.readouterr().err


def test_without_a_network_it_says_so_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """A hub that takes no connections: one line, and none of its library's retries."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        values = ["--input", str(tmp_path), "--output-prefix", str(tmp_path / "x"), "--tokenizer-type", "one/two"]
        assert nemo.preprocess_data_for_megatron(values) == 2
        assert "[hub-unreachable]" in capsys.readouterr().err
        for name in download.EXAMPLES:
            assert download.main(name, ["--output", str(tmp_path / "out")]) == 1
            assert "[hub-unreachable]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_download_does_not_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write_lines(tmp_path / "copy" / "a.jsonl", ROWS), tmp_path / "out" / "wikinews-zhtw.jsonl"
    write_lines(target, [{"text": "mine"}])
    values = ["--input", str(source), "--output", str(tmp_path / "out")]
    assert download.main("wikinews", values) == 1
    said = capsys.readouterr().err
    assert str(target) in said and "[download-there]" in said
    assert json.loads(target.read_text()) == {"text": "mine"}
    assert download.main("wikinews", [*values, "--overwrite"]) == 0
    assert len(target.read_text(encoding="utf-8").splitlines()) == len(ROWS)


ALPACA = [{"instruction": f" 題目 {i} ", "input": "輸入" if i % 2 else "", "output": f"答案 {i}"} for i in range(200)]


@pytest.mark.parametrize(
    ("script", "rows", "names"),
    [
        ("download_wiki", ROWS, ["wiki_data_zh-classical/zh_classicalwiki-20231101-pages-articles-multistream.jsonl"]),
        ("download_wikinews", ROWS, ["data/custom_dataset/json/wikinews-zhtw.jsonl"]),
        (
            "download_split_data",
            ALPACA,
            [f"data/alpaca/{name}.jsonl" for name in ("gpt4-chinese-zhtw", "training", "validation", "test")],
        ),
    ],
)
def test_download_helpers_with_a_local_copy(tmp_path: Path, script: str, rows: list[Any], names: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "copy").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "copy" / "train-00000.parquet")
    path = TOOLKITS / "download_example_data" / f"{script}.py"
    done = run(sys.executable, path, "--input", tmp_path / "copy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = {
        name: [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        for name in names
    }
    assert "\\u" not in (tmp_path / names[0]).read_text(encoding="utf-8")
    if script != "download_split_data":
        assert written[names[0]] == rows
        return
    whole, *parts = written.values()
    assert [len(part) for part in parts] == [196, 2, 2]
    assert sorted(map(str, whole)) == sorted(str(row) for part in parts for row in part)
    assert whole[1] == {"input": "題目 1\n輸入", "output": "答案 1"} and whole[0]["input"] == "題目 0"
    kind = recognise(whole[1])
    assert kind is not None and kind.convert(whole[1]).messages[0]["content"] == "題目 1\n輸入"


def test_download_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "a.jsonl", [{"body": "x"}])
    assert download.main("wiki", ["--input", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "out")]) == 1
    assert "no column text; there are: body [download-columns]" in capsys.readouterr().err
    assert download.main("wiki", ["--input", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    assert "[download-no-file]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
