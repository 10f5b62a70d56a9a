"""A file is the old one or the new one, whatever happens while it is written."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.common import files
from megatron_patch.common.files import atomic_file, write_json, write_text


@pytest.mark.parametrize("durable", [False, True])
def test_it_replaces_and_leaves_nothing_beside(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a.txt"
    for text in ("one", "zwei 北京"):
        write_text(path, text, durable=durable)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "target"
    link.symlink_to(target)  # to nothing yet
    write_text(link, "text")
    assert link.is_symlink() and target.read_text() == "text" and not target.is_symlink()


def test_a_long_name_has_room_for_its_partial(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 255), "text")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_json_keeps_half_a_surrogate_and_a_refused_nan_leaves_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": "北京 \ud83e"})
    assert "北京 \\ud83e" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": "北京 \ud83e"}
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": "北京 \ud83e"}


WRITER = """
import sys
from pathlib import Path
from megatron_patch.common.files import write_text
path = Path(sys.argv[1])
for number in range(1 << 30):
    write_text(path, f"{number}\\n" * 20_000)
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout
            for _ in range(3):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        lines = path.read_text().splitlines()
        assert len(lines) == 20_000 and len(set(lines)) == 1


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = "import sys; from pathlib import Path; from megatron_patch.common.files import write_text\n"
    code += "write_text(Path(sys.argv[1]), 'x' * 100_000)"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run([sys.executable, "-c", code, path], preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode and "File too large" in done.stderr
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_link_to_itself_has_a_path(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(".")
    assert files.real_path(tmp_path / "loop").name == "loop"
    assert files.real_path(tmp_path / "link" / "a") == files.real_path(tmp_path) / "a"
