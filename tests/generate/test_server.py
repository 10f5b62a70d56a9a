"""An exported folder in vLLM: the same tokens as in transformers.

vLLM pins another torch, so it lives in an environment of its own: MP_TEST_VLLM names that environment's Python.
docs/decisions.md says how it was made.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from megatron_patch.generate.__main__ import main as generate

from .conftest import TEXT

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
def test_vllm_writes_the_same(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [TEXT[:9], TEXT[:4]]
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    assert generate([str(model), *words, "--temperature", "0", "--max-new-tokens", "24", "--json"]) == 0
    ours = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    (tmp_path / "ask.py").write_text(ASK)
    environ = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [str(PYTHON), str(tmp_path / "ask.py"), str(model), *prompts]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1100)
    theirs = [json.loads(line.removeprefix("ANSWER ")) for line in done.stdout.splitlines() if line[:7] == "ANSWER "]
    assert theirs == ours, done.stderr[-3000:]
    assert prompts[0] + ours[0] == TEXT
