"""The command, over every form of input, any number of workers and machines, any interruption: the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.data import corpus as corpus_module
from megatron_patch.data import fast_tokenize, preprocess, pretraining
from megatron_patch.data.idxmap import resumable
from megatron_patch.data.tokenizers.engines import Gigatoken
from megatron_patch.data.verify import verify

from .mixed import TEXTS, json_lines

ROOT = Path(__file__).resolve().parents[2]


def make(source: Path, tokenizer: Path, prefix: Path, *flags: str) -> int:
    return preprocess.main([str(source), str(tokenizer), str(prefix), *flags])


def files_of(prefix: Path, key: str = "text") -> list[bytes]:
    return [Path(f"{prefix}_{key}_document.{suffix}").read_bytes() for suffix in ("bin", "idx")]


@pytest.fixture
def expected(tokenizer_folder: Path, tmp_path: Path) -> list[bytes]:
    """Of Hugging Face's own tokenizer, one document at a time."""
    from transformers import AutoTokenizer

    from megatron_patch.data.idxmap.writer import IdxmapWriter

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    with IdxmapWriter(tmp_path / "theirs_text_document", len(tokenizer)) as writer:
        for text in TEXTS:
            writer.add_document([*tokenizer(text).input_ids, tokenizer.eos_token_id])
    return files_of(tmp_path / "theirs")


def test_all_forms_workers_and_engines_give_the_same_bytes(
    folder: Path, tokenizer_folder: Path, tmp_path: Path, expected: list[bytes], small_chunks: None, capsys: Any
) -> None:
    for flags in (["--workers", "1"], ["--workers", "3"], ["--workers", "1", "--engine", "hf"]):
        prefix = tmp_path / "_".join(flags)
        assert make(folder, tokenizer_folder, prefix, *flags) == 0
        out = capsys.readouterr().out
        assert files_of(prefix) == expected
        assert ("engine: gigatoken" in out) != ("--engine" in flags)
        assert verify(f"{prefix}_text_document").wrong == []
    build = json.loads(Path(f"{prefix}_text_document.build.json").read_text())
    assert build["documents"] == 400 and build["engine"] == "hf" and build["eod"] is not None


def test_shards_merge_to_the_same_bytes(
    folder: Path, tokenizer_folder: Path, tmp_path: Path, expected: list[bytes], small_chunks: None, capsys: Any
) -> None:
    prefix = tmp_path / "out"
    for number in (2, 1, 3):
        assert make(folder, tokenizer_folder, prefix, "--shard", f"{number}/3", "--workers", "1") == 0
    assert make(folder, tokenizer_folder, prefix, "--merge", "3") == 0
    assert files_of(prefix) == expected and verify(f"{prefix}_text_document").wrong == []
    capsys.readouterr()
    # A shard of other options, one that was damaged, one that is missing.
    shard = ["--shard", "2/3", "--workers", "1", "--overwrite"]
    assert make(folder, tokenizer_folder, prefix, *shard, "--no-append-eod") == 0
    assert make(folder, tokenizer_folder, prefix, "--merge", "3", "--overwrite") == 1
    assert "shard 2 was made with other eod than shard 1" in capsys.readouterr().err
    assert make(folder, tokenizer_folder, prefix, *shard) == 0
    path = Path(f"{prefix}_text_document-00002-of-00003.bin")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert make(folder, tokenizer_folder, prefix, "--merge", "3", "--overwrite") == 1
    assert "is not what was written" in capsys.readouterr().err
    assert files_of(prefix) == expected  # the old one stays
    assert make(folder, tokenizer_folder, prefix, "--merge", "4", "--overwrite") == 1
    assert capsys.readouterr().err.count("is not there") == 4


@pytest.mark.parametrize("flag", ["0/2", "3/2", "a", "1", "-1/2"])
def test_shards_that_are_none(folder: Path, tokenizer_folder: Path, tmp_path: Path, flag: str, capsys: Any) -> None:
    assert make(folder, tokenizer_folder, tmp_path / "x", f"--shard={flag}") == 2
    assert "wanted I/N with 1 <= I <= N" in capsys.readouterr().err


def test_without_special_tokens(tokenizer_folder: Path, tmp_path: Path) -> None:
    from megatron_patch.data.idxmap.writer import read_lengths

    (tmp_path / "a.jsonl").write_bytes(json_lines(["one two"]))
    assert make(tmp_path / "a.jsonl", tokenizer_folder, tmp_path / "with", "--workers", "1") == 0
    assert make(tmp_path / "a.jsonl", tokenizer_folder, tmp_path / "none", "--workers", "1", "--no-special-tokens") == 0
    with_bos, without = (read_lengths(tmp_path / f"{name}_text_document")[0] for name in ("with", "none"))
    assert without == with_bos - 1


def test_a_mismatch_on_the_way_starts_over_with_hugging_face(
    folder: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    expected: list[bytes],
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    right = Gigatoken.ids

    def wrong_later(self: Gigatoken, text: str) -> list[int]:
        return [*right(self, text), 1] if text.startswith("document 37") else right(self, text)

    monkeypatch.setattr(corpus_module, "CHUNK_BYTES", 100)  # a document or two in a chunk
    monkeypatch.setattr(Gigatoken, "ids", wrong_later)
    assert make(folder, tokenizer_folder, tmp_path / "out", "--workers", "1") == 0
    assert "from the start again" in capsys.readouterr().out
    assert files_of(tmp_path / "out") == expected
    assert make(folder, tokenizer_folder, tmp_path / "no", "--workers", "1", "--engine", "gigatoken") == 1
    assert not list(tmp_path.glob("no_*"))


SCRIPT = """
import sys, time
from megatron_patch.data import corpus, preprocess
from megatron_patch.data.idxmap import resumable
corpus.CHUNK_BYTES, resumable.COMMIT_BYTES = 3000, 1
add = resumable.ResumableWriter.add
calls = 0
def slowly(self, *arguments):
    global calls
    calls += 1
    if calls == {stop}:
        print("stopped", flush=True)
        time.sleep(3600)
    add(self, *arguments)
resumable.ResumableWriter.add = slowly
sys.exit(preprocess.main(sys.argv[1:]))
"""


def _listen_to_ctrl_c() -> None:
    """Shells start what runs in the background, these tests perhaps, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_runs_go_on(
    folder: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    expected: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    kill: signal.Signals,
) -> None:
    prefix = tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT.format(stop=14), str(folder), str(tokenizer_folder), str(prefix)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--workers", "1"], stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=_listen_to_ctrl_c
    )
    assert process.stdout is not None
    assert any("stopped" in line for line in process.stdout)
    process.send_signal(kill)
    assert process.wait() in (-9, 130)
    assert not Path(f"{prefix}_text_document.idx").exists()
    with Path(f"{prefix}_text_document.bin.partial").open("ab") as partial:
        partial.write(b"torn")  # what a dying machine may add behind the journal's end
    assert make(folder, tokenizer_folder, prefix, "--workers", "1") == 0
    out = capsys.readouterr().out
    assert "went on after" in out and files_of(prefix) == expected
    assert verify(f"{prefix}_text_document").wrong == []
    assert sorted(path.name for path in tmp_path.glob("out*")) == [
        f"out_text_document.{suffix}" for suffix in ("bin", "build.json", "idx")
    ]


def test_other_options_or_data_start_over(
    folder: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_chunks: None,
    capsys: Any,
) -> None:
    monkeypatch.setattr(resumable, "COMMIT_BYTES", 1)

    def interrupted(*arguments: Any) -> Any:
        for number, piece in enumerate(encode_all(*arguments)):
            if number == 9:
                raise KeyboardInterrupt
            yield piece

    encode_all = fast_tokenize.encode_all
    monkeypatch.setattr(pretraining, "encode_all", interrupted)
    assert make(folder, tokenizer_folder, tmp_path / "out", "--workers", "1") == 130
    monkeypatch.setattr(pretraining, "encode_all", encode_all)
    journal = Path(f"{tmp_path}/out_text_document.journal.partial")
    saved = {path: path.read_bytes() for path in tmp_path.glob("*.partial")}
    assert json.loads(journal.read_text())["documents"] > 0

    assert make(folder, tokenizer_folder, tmp_path / "out", "--workers", "1", "--no-append-eod") == 0
    assert "went on" not in capsys.readouterr().out
    for path, content in saved.items():
        path.write_bytes(content)
    os.utime(folder / "b.json", ns=(1, 1))
    assert make(folder, tokenizer_folder, tmp_path / "out", "--workers", "1", "--overwrite") == 0
    assert "went on" not in capsys.readouterr().out


def test_memory_does_not_grow_with_the_corpus(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Five and twenty chunks: the second may take no more than a little more than the first."""
    program = """
import sys
from megatron_patch.data import corpus, preprocess
corpus.CHUNK_BYTES = 1 << 19
assert preprocess.main(sys.argv[1:]) == 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    lines = json_lines(TEXTS)
    peaks = []
    for times in (5, 60):
        source = tmp_path / f"{times}.jsonl"
        source.write_bytes(lines * (times * (1 << 19) // len(lines)))
        command = [sys.executable, "-c", program, source, tokenizer_folder, tmp_path / f"out{times}", "--workers", "1"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 30, peaks  # MiB; the second corpus is 28 MB larger, its tokens 60 MB
    assert peaks[1] < 400


def test_sentencepiece_models_give_megatrons_bytes(tmp_path: Path, capsys: Any) -> None:
    import sentencepiece
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "t.txt"), model_prefix=str(tmp_path / "t"), vocab_size=300, minloglevel=2,
        byte_fallback=True,
    )  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(json_lines(TEXTS))
    assert make(tmp_path / "a.jsonl", tmp_path / "t.model", tmp_path / "out", "--workers", "2") == 0
    assert "engine: sentencepiece" in capsys.readouterr().out
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    dataset = IndexedDataset(str(tmp_path / "out_text_document"))
    for number in (0, 57, 399):
        assert dataset[number].tolist() == [*theirs.encode(TEXTS[number]), theirs.eos_id()]
