"""What a model that knows a few conversations by heart is asked, and must say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_patch.checkpoint.cli import main as convert
from megatron_patch.data.tokenizers.text_tokenizer import load_tokenizer
from megatron_patch.generate.__main__ import main as generate
from megatron_patch.generate.chat import main as chat
from megatron_patch.generate.stream import Detokenizer
from megatron_patch.runs.folder import PLAN

from .conftest import ENDLESS, ESCAPES, PONG, TEXT, conversation

ROOT = Path(__file__).resolve().parents[2]
GREEDY = ("--temperature", "0")
PROMPT = ("--prompt", "ping", *GREEDY)


def rewritten(model: Path, copy: Path, **changes: object) -> Path:
    """The same model with other words in config.json."""
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.fixture(scope="session")
def checkpoint(model: Path) -> Path:
    """As Megatron saves it."""
    folder = model.with_name("mcore")
    words = ["--direction", "hf2mcore", "--source", str(model), "--output-path", str(folder), "--precision", "fp32"]
    assert convert(words) == 0
    return folder


@pytest.fixture(scope="session")
def adapter(model: Path) -> Path:
    """Of rank 2 over the trained model: large enough to make it forget what it knows."""
    folder = model.with_name("adapter")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model)
    learner = get_peft_model(base, LoraConfig(r=2, target_modules=["o_proj", "down_proj"], init_lora_weights=False))
    learner.save_pretrained(folder)
    return folder


def test_a_turn_ends_with_the_template_s_token(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which generation_config.json does not name."""
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] != "<|eot_id|>"
    assert chat([str(model), *PROMPT]) == 0
    said = capsys.readouterr()
    assert said.out == f"{PONG}\n"
    assert said.err == "trained: 139,584 parameters, float32, cpu\n"


def test_turns_and_system_prompt(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat([str(model), *PROMPT, "--prompt", "ping"]) == 0
    assert capsys.readouterr().out == f"{PONG}\npong again\n"
    assert chat([str(model), *PROMPT, "--system", "shout"]) == 0
    assert capsys.readouterr().out == "PONG\n"


def test_the_prompt_is_transformers_s(model: Path) -> None:
    """Token for token."""
    from megatron_patch.generate.model import AnsweringModel

    turns = conversation([("system", "shout"), ("user", "ping"), ("assistant", "PONG"), ("user", "é")])
    ours = AnsweringModel(model)
    theirs = AutoTokenizer.from_pretrained(model).apply_chat_template(turns, add_generation_prompt=True)
    assert ours.tokenizer.encode(ours.template.prompt(turns), add_special_tokens=False).ids == theirs["input_ids"]


def test_it_says_what_ended_an_answer(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat([str(model), "--prompt", "sing", *GREEDY, "--max-new-tokens", "9"]) == 0
    said = capsys.readouterr()
    assert re.fullmatch("(la )+l?a?\n", said.out)
    assert "[broken off after 9 tokens: --max-new-tokens]" in said.err
    short = rewritten(model, tmp_path / "short", max_position_embeddings=128)
    assert chat([str(short), "--prompt", "sing", *GREEDY]) == 0
    assert "the model has no more positions" in capsys.readouterr().err
    assert chat([str(short), "--prompt", "ping " * 128]) == 1
    assert "fill the model's 128 positions" in capsys.readouterr().err


def test_a_text_is_continued(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate([str(model), "--prompt", TEXT[:8], *GREEDY]) == 0
    assert capsys.readouterr().out == f"{TEXT}\n"
    (tmp_path / "prompts").write_text(f"{TEXT[:4]}\n\n{TEXT[:9]}\n")
    assert generate([str(model), "--prompts", str(tmp_path / "prompts"), *GREEDY, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["prompt"] + one["text"], one["ended"]) for one in told] == [(TEXT, "end")] * 2


def test_sampling_follows_its_seed(untrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("1", "1", "2"):
        words = [str(untrained), "--prompt", "a", "--temperature", "1", "--max-new-tokens", "20", "--seed", seed]
        assert generate(words) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_before_and_after(
    model: Path, untrained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    words = [str(model), "--chat", *PROMPT, "--prompt", "escape", "--max-new-tokens", "40"]
    assert generate([*words, "--before", str(untrained)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("before: untrained" in line and "after: trained" in line for line in lines)
    (answer,) = [line for line in lines if PONG in line]
    assert answer.index(PONG) > 45, "in the right column"
    assert not any("\x1b]" in line for line in lines)
    assert any(r"\x1b[31mred \x1b]0;title\x07end" in line for line in lines)


def test_a_run_beside_its_start(
    checkpoint: Path, untrained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run's folder: its newest checkpoint is exported once; its plan says what it started from."""
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run / "checkpoints")
    plan = json.loads((ROOT / "tests/golden/plan_version_1.json").read_text())
    plan["values"]["PRETRAIN_CHECKPOINT_PATH"] = str(untrained)
    (run / PLAN).write_text(json.dumps(plan))
    words = [str(run), "--compare", "--chat", *PROMPT, "--json", "--max-new-tokens", "9", "--cache", str(tmp_path)]
    assert generate(words) == 0
    said = capfd.readouterr()
    before, after = map(json.loads, said.out.splitlines())
    assert before["model"] == "before: untrained" and before["text"] != after["text"]
    assert after["model"] == "after: run/release" and PONG.startswith(after["text"].rstrip("\ufffd"))
    assert generate(words) == 0
    assert "was exported before" in capfd.readouterr().err

    plan["values"]["PRETRAIN_CHECKPOINT_PATH"] = "none"
    (run / PLAN).write_text(json.dumps(plan))
    assert generate(words) == 2
    assert "was trained from no checkpoint" in capfd.readouterr().err


@pytest.mark.slow
def test_an_adapter_beside_its_base(
    model: Path, adapter: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate([str(adapter), "--compare", "--chat", *PROMPT, "--json", "--cache", str(tmp_path)]) == 0
    before, after = map(json.loads, capfd.readouterr().out.splitlines())
    assert before["text"] == PONG != after["text"]


def test_what_cannot_be_asked(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every reason at once, each with its flag; no traceback."""
    assert chat([str(tmp_path / "no"), "--top-p", "2", "--temperature", "hot", "--dtype", "fp32"]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("MODEL: ", "--top-p: '2'", "--temperature: 'hot'", "--dtype: 'fp32'"))
    assert generate([str(model)]) == 2
    assert "--prompt" in capsys.readouterr().err
    assert generate([str(model), "--prompt", "x", "--compare"]) == 2
    assert "--before names the other model" in capsys.readouterr().err
    assert chat([str(tmp_path), "--prompt", "x"]) == 2
    assert "has no config.json with" in capsys.readouterr().err
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    assert chat([str(tmp_path), "--prompt", "x"]) == 2
    said = capsys.readouterr().err
    assert "a run that has not saved a checkpoint yet" in said
    assert "--" not in said, "no flag would help"


def test_torn_weights_and_nan_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = shutil.copytree(model, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(b"torn")
    assert chat([str(torn), "--prompt", "x"]) == 2
    assert f"{torn} cannot be loaded on cpu" in capsys.readouterr().err
    lost = shutil.copytree(model, tmp_path / "lost")
    weights = load_file(lost / "model.safetensors")
    weights["model.norm.weight"] *= float("nan")
    save_file(weights, lost / "model.safetensors", metadata={"format": "pt"})
    for words in (GREEDY, ("--temperature", "1")):
        assert chat([str(lost), "--prompt", "x", *words]) == 1
        assert "NaN" in capsys.readouterr().err
    silent = shutil.copytree(model, tmp_path / "silent")
    (silent / "chat_template.jinja").write_text("{{ raise_exception('alternate, please') }}")
    assert chat([str(silent), "--prompt", "x"]) == 1
    assert "alternate, please" in capsys.readouterr().err


def test_pieces_make_the_whole(model: Path) -> None:
    """Characters of several tokens come whole; bytes that are not a character do not stop it."""
    tokenizer = load_tokenizer(model).backend
    for text in (PONG, ENDLESS, "  two\n\n\tlines 🙂🙂漢 ", "é" * 50):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        pieces = Detokenizer(tokenizer)
        told = [pieces.add(token) for token in ids] + [pieces.rest()]
        assert "".join(told) == text
        assert not any("\ufffd" in piece for piece in told)
    (first, *_) = tokenizer.encode("🙂", add_special_tokens=False).ids
    pieces = Detokenizer(tokenizer)
    told = [pieces.add(token) for token in [first] * 40] + [pieces.rest()]
    assert set("".join(told)) == {"\ufffd"}


def test_lines_of_a_pipe_are_turns(model: Path) -> None:
    """And what a model writes gives no orders to a terminal."""
    command = ["sh", "toolkits/chat.sh", str(model), *GREEDY]
    lines = "ping\nping\n/reset\n/what\n\nescape\n/quit\nsing\n"
    environ = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environ, input=lines, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    escaped = ESCAPES.encode("unicode_escape").decode()
    assert done.stdout.splitlines() == [PONG, "pong again", escaped]
    assert "[new conversation]" in done.stderr and "/what is not a command" in done.stderr
