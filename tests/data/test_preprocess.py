"""The preprocessing command, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.data.idxmap.writer import read_lengths

ROOT = Path(__file__).resolve().parents[2]
DOOR = ROOT / "toolkits" / "pretrain_data_preprocessing" / "run_make_pretraining_dataset.sh"


def run(*arguments: object, shell: str = "sh", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    command = [shell, str(DOOR), *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def documents_of(prefix: Path) -> list[list[int]]:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    dataset = IndexedDataset(str(prefix))
    return [dataset[i].tolist() for i in range(len(dataset))]


def test_byte_identical_to_megatrons_own_method(corpus: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    """The loop of Megatron's tools/preprocess_data.py: one document at a time through its own classes."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from megatron.core.tokenizers.text.libraries.huggingface_tokenizer import HuggingFaceTokenizer

    tokenizer = HuggingFaceTokenizer(str(tokenizer_folder))
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(tokenizer.vocab_size))
    for line in corpus.read_text().splitlines():
        ids = [*tokenizer.text_to_ids(json.loads(line)["text"]), tokenizer.eod]
        builder.add_document(ids, [len(ids)])
    builder.finalize(str(tmp_path / "theirs.idx"))

    for workers in (1, 3):
        done = run(corpus, tokenizer_folder, tmp_path / "ours", "--workers", workers, "--overwrite")
        assert done.returncode == 0, done.stderr
        for suffix in (".bin", ".idx"):
            ours = (tmp_path / f"ours_text_document{suffix}").read_bytes()
            assert ours == (tmp_path / f"theirs{suffix}").read_bytes()


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_folder_in_order_with_counts(shell: str, tokenizer_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "my text; $(touch hacked)"
    (source / "b").mkdir(parents=True)
    write_lines(source / "b" / "2.json", '{"body": "three"}', "   ", '{"body": ""}')
    write_lines(source / "1.jsonl", '{"body": "one"}', "", '{"body": "zwei \\u5317"}')
    write_lines(source / "notes.txt", "not data")
    prefix = tmp_path / "out put" / "name"
    done = run(source, tokenizer_folder, prefix, "--json-key", "body", shell=shell, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "documents 3," in done.stdout and "blank lines 2, documents of no text 1" in done.stdout
    assert not (tmp_path / "hacked").exists()

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    wanted = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in ("one", "zwei 北", "three")]
    assert documents_of(Path(f"{prefix}_body_document")) == wanted


def test_without_eod_a_document_is_one_token_shorter(tokenizer_folder: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", '{"text": "one two"}')
    assert run(source, tokenizer_folder, tmp_path / "with").returncode == 0
    assert run(source, tokenizer_folder, tmp_path / "without", "--no-append-eod").returncode == 0
    (full,), (bare,) = (documents_of(tmp_path / f"{name}_text_document") for name in ("with", "without"))
    assert bare == full[:-1]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "open', "bad JSON at column 10"),
        ('["text"]', "row 1: a JSON string; wanted an object"),
        ("null", "a JSON null; wanted an object"),
        ('{"txt": "x", "id": 3}', "no key 'text'; its keys: 'txt', 'id'"),
        ("{}", "its keys: none"),
        ('{"text": 3}', "is a JSON number; wanted a string"),
        ('{"text": null}', "is a JSON null; wanted a string"),
        ('{"text": ["a"]}', "is a JSON array; wanted a string"),
        ('{"text": "\\ud83e"}', "half a character"),
        ("[" * 100_000, "JSON"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 11"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_bad_line_is_named(tokenizer_folder: Path, tmp_path: Path, line: str | bytes, complaint: str) -> None:
    source = tmp_path / "data.jsonl"
    bad = line if isinstance(line, bytes) else line.encode()
    source.write_bytes(b'{"text": "fine"}\n\n' + bad + b'\n{"text": "fine"}\n')
    done = run(source, tokenizer_folder, tmp_path / "out")
    assert done.returncode == 1
    assert f"{source}:3: " in done.stderr and complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl"]


def test_one_json_document_over_many_lines_is_read(tokenizer_folder: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "list.json", "[", '  {"text": "a"}', "]")
    done = run(source, tokenizer_folder, tmp_path / "out")
    assert done.returncode == 0 and "documents 1," in done.stdout


def test_all_wrong_values_at_once(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere", tmp_path, f"{tmp_path}/", "--workers", "many", "--json-key", "a/b")
    assert done.returncode == 2
    for name in ("1 INPUT", "2 TOKENIZER", "3 OUTPUT_PREFIX", "--workers: 'many'", "--json-key: 'a/b'"):
        assert name in done.stderr


def test_help_names_every_value_and_missing_ones_are_named(tmp_path: Path) -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("INPUT", "TOKENIZER", "OUTPUT_PREFIX", "--json-key", "--no-append-eod", "--workers", "example:"):
        assert word in done.stdout
    done = run(tmp_path)
    assert done.returncode == 2 and "TOKENIZER, OUTPUT_PREFIX" in done.stderr
    assert run(tmp_path, tmp_path, tmp_path / "x", "--append-eos").returncode == 2


def test_an_existing_dataset_is_kept_unless_told(corpus: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", '{"text": "one"}')
    assert run(source, tokenizer_folder, tmp_path / "out").returncode == 0
    done = run(corpus, tokenizer_folder, tmp_path / "out")
    assert done.returncode == 2 and "exists; --overwrite replaces it" in done.stderr
    assert len(read_lengths(tmp_path / "out_text_document")) == 1
    assert run(corpus, tokenizer_folder, tmp_path / "out", "--overwrite").returncode == 0
    assert len(read_lengths(tmp_path / "out_text_document")) > 1


def test_nothing_in_the_input_is_an_error(tokenizer_folder: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", "", '{"text": ""}')
    done = run(source, tokenizer_folder, tmp_path / "out")
    assert done.returncode == 1 and "holds no document (blank lines 1, documents of no text 1)" in done.stderr
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / "empty", tokenizer_folder, tmp_path / "out")
    assert done.returncode == 2 and ".jsonl or .json" in done.stderr


def test_needs_neither_torch_nor_megatron(corpus: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    program = """
import sys
from megatron_patch.data.preprocess import main
assert main(sys.argv[1:]) == 0
print(sorted({"torch", "transformers", "megatron"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, corpus, tokenizer_folder, tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
