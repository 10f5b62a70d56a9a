"""Training as a person sees it in a terminal: the live line and our lines; everything else is in the rank's log."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from .harness import command, complete_iterations, environment, read_metrics

OURS = re.compile(r"(model|device|layout|data|start) +\S|first step after|iteration +\d+ \| validation|\d+/6 |$")
"""How a line on the screen begins."""


def train_in_terminal(arguments: list[str], columns: int) -> tuple[int, str]:
    """Status, and all that was written to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {name: value for name, value in environment().items() if name not in ("COLUMNS", "LINES")}
    environ |= {"TERM": "xterm-256color"}
    job = subprocess.Popen(arguments, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    written = b""
    try:
        while True:
            try:
                written += os.read(ours, 65536)
            except OSError:  # the last process has closed it
                return job.wait(300), written.decode()
    finally:
        job.kill()
        os.close(ours)


def drawn_lines(written: str) -> list[str]:
    """Every line that was ever to be seen, drawn over or not, without colours and cursor movements."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_screen_is_the_persons_and_the_log_has_the_rest(tmp_path: Path, data: Path, columns: int) -> None:
    """Megatron and its libraries print and log before, during and after the steps, to both streams."""
    flags = f"--train-iters 6 --log-interval 1 --valid-data-path {data} --eval-interval 3 --eval-iters 1"
    flags += f" --save {tmp_path}/out/checkpoints --save-interval 3"
    status, written = train_in_terminal(command(tmp_path / "out", data, flags), columns)
    assert status == 0, written
    lines = drawn_lines(written)
    assert [line for line in lines if not OURS.match(line)] == []
    assert len([metric for metric in read_metrics(tmp_path / "out") if "loss" in metric]) == 6

    draws = [line for line in lines if re.match(r"\d+/6 ", line)]
    assert {line.split()[0] for line in draws} >= {"0/6", "6/6"}
    assert all(line.endswith(("first step ...", " left")) for line in draws), draws
    assert max(map(len, draws)) < columns
    last = next(line for line in draws if line.startswith("6/6"))
    assert "loss " in last
    assert ("lr " in last) >= ("norm" in last) >= ("TFLOP/s" in last), "TFLOP/s goes first, then norm"
    assert ("norm" in last) == (columns == 120)
    assert written.rstrip().endswith("\x1b[?25h"), "the cursor is back"

    log = (tmp_path / "out" / "logs" / "rank_0.log").read_text()
    assert len(re.findall(r"iteration +\d+/ +6 ", log)) == 6, "Megatron's own lines"
    assert "saving checkpoint" in log
    assert "0.19.2" in log, "the patches"


def test_ctrl_c(tmp_path: Path, data: Path) -> None:
    """It reaches every process of the run, the ranks and their data loaders too; the step is saved all the same."""
    ours, theirs = pty.openpty()
    output = tmp_path / "out"
    flags = f"--train-iters 100000 --num-workers 1 --save {output}/checkpoints --save-interval 100000"
    job = subprocess.Popen(
        command(output, data, flags, processes=2),
        env=environment() | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        pressed = False
        while True:
            try:
                written += os.read(ours, 65536)
            except OSError:
                break
            if not pressed and len(read_metrics(output)) >= 3:
                pressed = os.write(ours, b"\x03") == 1
        assert job.wait(300) == 130, written.decode()
    finally:
        job.kill()
        os.close(ours)
    lines = drawn_lines(written.decode())
    (saved,) = complete_iterations(output / "checkpoints")
    assert any("SIGINT: the ranks finish their step, save and end, within 600 s" in line for line in lines)
    assert f"stopped by SIGINT after iteration {saved}; the same command goes on from there" in lines
    assert [line for line in lines if "Traceback" in line or "Error" in line] == []
