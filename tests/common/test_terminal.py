"""Nothing that somebody else wrote gives orders to a terminal, and no secret is repeated on it."""

from __future__ import annotations

import ast
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from megatron_patch.common.progress import LinePart, LiveLine, Plain
from megatron_patch.common.terminal import Guarded, masked, plain, raw
from megatron_patch.launch.command import REPOSITORY

ORDERS = [*map(chr, range(9)), *map(chr, range(11, 32)), *map(chr, range(0x7F, 0xA0))]
ORDERS += [*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\u200e", "\u200f", "\u061c", "\ufeff"]
ORDERS += ["\u2028", "\u2029", "\udc80", "\ud800"]


@pytest.mark.parametrize("mark", ORDERS)
def test_orders_are_shown(mark: str) -> None:
    """As Python writes them."""
    said = plain(f"a{mark}b")
    assert mark not in said and said == f"a{mark.encode('unicode_escape').decode()}b"


def test_text_stays() -> None:
    """Lines, tabs, and the letters of all languages."""
    said = "a\tb\nä 模型\u3000é 👩\u200d👧 עברית\n"
    assert plain(said) == said


def test_a_guarded_stream_is_the_stream() -> None:
    """But for what is written."""
    under = io.StringIO()
    stream = Guarded(under)
    print("a\x1b[2J\rb", file=stream)
    stream.writelines(["\x9b31m", "ok"])
    assert under.getvalue() == "a\\x1b[2J\\rb\n\\x9b31mok" and not stream.isatty()
    assert raw(stream) is under and raw(under) is under
    bars = io.StringIO()
    Guarded(bars, bars=True).write("1%\r2%\x1b")
    assert bars.getvalue() == "1%\r2%\\x1b"


def test_what_rich_draws_is_plain() -> None:
    """Its own orders pass, those in the texts do not."""
    under = io.StringIO()
    Console(file=under, force_terminal=True).print(Plain("[red]x[/red]\x1b]0;title\x07\u202ey"))
    assert "\x1b]0;" not in under.getvalue() and "\x07" not in under.getvalue() and "\u202e" not in under.getvalue()
    live = LiveLine(Guarded(under), 10)  # type: ignore[arg-type]
    live.start()
    live.show("1/10", 1, [LinePart("\x1b]0;title\x07", 100)])
    live.say("\x1b]52;c;eA==\x07")
    live.stop()
    assert "\x1b]" not in under.getvalue() and "\x07" not in under.getvalue()
    assert "\x1b[" in under.getvalue()


def test_tokens_are_masked() -> None:
    """By how they begin, in any text; and whatever stands behind a name that nobody knows."""
    token = "hf_" + "aB3" * 12
    assert plain(f"--wandb_tokn {token}") == "--wandb_tokn hf_..."
    assert masked(token) == "hf_..." and masked("0123456789abcdef" * 2) == "012..." and masked("hf_xxx") == "hf_..."
    assert [masked(value) for value in ("8", "10000000000", "/data/x/y/z.jsonl", "true")] == [
        *("8", "10000000000", "/data/x/y/z.jsonl", "true")
    ]


MAINS = [
    path.relative_to(REPOSITORY)
    for path in sorted((REPOSITORY / "megatron_patch").rglob("*.py"))
    if path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]
NO_PERSON = {"trainer/__main__.py", "checkpoint/check/run.py", "doctor/probe.py", "data/check_idxmap.py"}
"""Started by ours, which read what they say, or have streams of their own."""


@pytest.mark.parametrize("path", MAINS, ids=str)
def test_every_cli_is_guarded(path: Path) -> None:
    """At its entry, or in the command line that the entry calls."""
    if str(path.relative_to("megatron_patch")) in NO_PERSON | {"evaluation/cards.py"}:
        return
    places = [path, path.with_name("cli.py")] if path.name == "__main__.py" else [path]
    texts = [(REPOSITORY / one).read_text(encoding="utf-8") for one in places if (REPOSITORY / one).is_file()]
    calls = {node.func.id for text in texts for node in ast.walk(ast.parse(text)) if _is_call(node)}  # type: ignore[attr-defined]
    assert "guard" in calls


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


HOSTILE = "x\x1b]0;pwned\x07\u202ey"
COMMANDS = [
    ["-m", "megatron_patch.watch", HOSTILE],
    ["-m", "megatron_patch.report", HOSTILE],
    ["-m", "megatron_patch.launch", *[HOSTILE] * 25],
    ["-m", "megatron_patch.launch", HOSTILE],
    ["-m", "megatron_patch.checkpoint", "--source", HOSTILE, "--output-path", HOSTILE],
    ["-m", "megatron_patch.checkpoint", *[HOSTILE] * 10],
    ["-m", "megatron_patch.data.preprocess", HOSTILE, HOSTILE, HOSTILE],
    ["-m", "megatron_patch.data.verify", HOSTILE],
    ["-m", "megatron_patch.data.sft.inspection", HOSTILE, "--tokenizer", HOSTILE],
    ["-m", "megatron_patch.data.sft.build_idxmap", *[HOSTILE] * 5],
    ["-m", "megatron_patch.planner", f"--{HOSTILE}"],
    ["-m", "megatron_patch.evaluation.compare", HOSTILE, HOSTILE],
    ["examples/llama3_1/pretrain_llm.py", f"--{HOSTILE}", HOSTILE],
    ["toolkits/model_checkpoints_convertor/llama/convert.py", f"--{HOSTILE}"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_terminal_gets_no_orders_from_a_command_line(command: list[str], tmp_path: Path) -> None:
    """Real processes on a real terminal."""
    ours, theirs = pty.openpty()
    script = [str(REPOSITORY / command[0])] if command[0] != "-m" else command[:1]
    environ = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "TERM": "xterm",
        "MP_DEVICE": "cpu",
        f"MP_{HOSTILE[3:]}": "x",
    }
    started = subprocess.Popen(
        [sys.executable, *script, *command[1:]], stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=tmp_path
    )
    os.close(theirs)
    said = b""
    try:
        while block := os.read(ours, 65536):
            said += block
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert started.wait() != 0 and said
    text = said.decode(errors="replace")
    assert "\x1b]" not in text and "\x07" not in text and "\u202e" not in text, text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("screen", "said"), [("| true", ""), (">/dev/full", "<stdout> cannot be written"), (">&-", "")]
)
def test_a_screen_that_is_gone(screen: str, said: str) -> None:
    """A reader that has ended, a full disk, nothing at all: the work is done, and no traceback stands for it."""
    script = f"{sys.executable} -m megatron_patch.launch --help {screen}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert (done.returncode, said in done.stderr, bool(done.stderr)) == (0, True, bool(said))
