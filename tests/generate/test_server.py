"""An exported folder in vLLM: the same tokens as in transformers.

vLLM pins another torch, so it lives in an environment of its own: MP_TEST_VLLM names that environment's Python.
docs/decisions.md says how it was made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_patch.checkpoint.cli import main as convert
from megatron_patch.checkpoint.hf_model import hf_model_of
from megatron_patch.checkpoint.random_model import make_hf_checkpoint, tokenizer_vocab_size
from megatron_patch.generate.__main__ import main as generate
from megatron_patch.models import model_of_size

PYTHON = os.environ.get("MP_TEST_VLLM")
ASK = """
import json, sys
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    model = LLM(model=sys.argv[1], dtype="float32", max_model_len=128, enforce_eager=True, max_num_seqs=2,
                max_num_batched_tokens=128)
    for found in model.generate(sys.argv[2:], SamplingParams(temperature=0, max_tokens=24)):
        print("ANSWER " + json.dumps(found.outputs[0].text))
"""


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="vLLM needs an environment of its own: MP_TEST_VLLM names its Python")
def test_vllm_writes_the_same(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a Megatron checkpoint's export. Its attention on the CPU wants heads of 32 or more."""
    model = replace(model_of_size("tiny"), num_layers=2, init_method_std=0.08)
    vocab = tokenizer_vocab_size(tokenizer)
    make_hf_checkpoint(tmp_path / "hf", model, precision="fp32", vocab_size=vocab, tokenizer=tokenizer)
    assert convert(["--source", str(tmp_path / "hf"), "--output-path", str(tmp_path / "mcore")]) == 0
    exported = hf_model_of(tmp_path / "mcore", cache=tmp_path, log=sys.__stderr__).folder
    prompts = ["ping pong", "la la la"]
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    capsys.readouterr()
    assert generate([str(exported), *words, "--temperature", "0", "--max-new-tokens", "24", "--json"]) == 0
    ours = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    (tmp_path / "ask.py").write_text(ASK)
    environ = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [str(PYTHON), str(tmp_path / "ask.py"), str(exported), *prompts]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1100)
    theirs = [json.loads(line.removeprefix("ANSWER ")) for line in done.stdout.splitlines() if line[:7] == "ANSWER "]
    whole = [text.rstrip("\ufffd") for text in ours]  # vLLM leaves out a last character that is not complete
    assert theirs == whole, done.stderr[-3000:]
    assert len(set(ours)) == 2
