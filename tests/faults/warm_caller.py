"""The caller of a warm Python: FOLDER PYTHON, and what Python is called with. Little is imported here."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

OPTIONS = ("-u", "-P", "-B")
FORWARDED = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
ON_MEGATRON = ("megatron_patch.torchrun", "pretrain_llama.py", "convert.py")


def main(folder: str, python: str, words: Sequence[str]) -> NoReturn:
    """Have it done, or become the interpreter."""
    options = []
    while words and words[0] in OPTIONS:
        options.append(words[0])
        words = words[1:]
    module = words[:1] == ["-m"]
    words = words[1:] if module else words
    if not words or words[0].startswith("-"):
        os.execv(python, [python, *sys.argv[3:]])
    server = socket.socket(socket.AF_UNIX)
    descriptors = [number for number in range(250) if number != server.fileno() and _is_open(number)]
    server.connect(f"{folder}/{'megatron' if words[0].rpartition('/')[2] in ON_MEGATRON else 'plain'}")
    request = {"options": options, "module": module, "program": words[0], "arguments": words[1:]}
    request |= {"folder": os.getcwd(), "environ": dict(os.environ), "descriptors": descriptors}  # noqa: PTH109
    body = json.dumps(request).encode()
    socket.send_fds(server, [len(body).to_bytes(4)], descriptors)
    server.sendall(body)
    answers = server.makefile()
    pid = int(answers.readline())
    for number in FORWARDED:
        signal.signal(number, lambda received, frame: os.kill(pid, received))
    status = int(answers.readline() or 255)
    if status < 0:
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
