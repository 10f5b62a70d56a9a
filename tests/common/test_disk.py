"""A full disk, a limit and a read-only mount end every tool in one sentence, with nothing half written."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.common.disk import explain

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT = 20_000


def test_only_a_disk_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "x"
    assert explain(ValueError("no")) is None and explain(OSError(errno.ECONNRESET, "no")) is None
    full = str(explain(OSError(errno.ENOSPC, "no", str(file))))
    assert full.startswith(f"{file} cannot be written: No space left on device; ")
    assert full.endswith(" bytes are free on its disk, now that what was written of it is removed")
    assert str(explain(OSError(errno.EROFS, "no", str(file)))) == f"{file} cannot be written: Read-only file system"
    assert str(explain(Exception("File too large (os error 27)"))) == "a file cannot be written: File too large"


def test_the_file_that_a_function_had_in_hand_is_named(tmp_path: Path) -> None:
    """The kernel gives no name where a write fails."""
    with (tmp_path / "written").open("w"):
        try:
            _fail(tmp_path / "written")
        except OSError as error:
            assert str(explain(error)).startswith(f"{tmp_path}/written cannot be written")


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    """Of a checkpoint it is known how large it is; with what was written of it."""
    full = str(explain(OSError(errno.ENOSPC, "no", str(tmp_path / "x")), needed=10**18, written=10**17))
    found = re.search(r"to be written, its disk had room for ([\d,]+): ([\d,]+) are missing$", full)
    assert found, full
    room, missing = (int(number.replace(",", "")) for number in found.groups())
    assert room + missing == 10**18 and room > 10**17
    assert "free on its disk" in str(explain(OSError(errno.ENOSPC, "no", str(tmp_path)), needed=1))


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    """Removed under a shell, or mounted anew: a relative path ends in a sentence."""
    script = (
        'mkdir gone; cd gone; rmdir ../gone; exec sh "$0" dsw tiny 1 8 1e-3 1e-4 64 64 fp32 1 1 1 '
        "false false true false false false 5 text none none 4096 0 out"
    )
    driver = REPOSITORY / "examples" / "llama3_1" / "run_mcore_llama3_1.sh"
    ours = os.environ | {"PYTHON": sys.executable, "MP_DEVICE": "cpu", "DRY_RUN": "1", "MP_LANG": "en"}
    done = subprocess.run(["sh", "-c", script, str(driver)], cwd=tmp_path, env=ours, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the working folder is gone" in done.stderr
    assert "Traceback" not in done.stderr


def _fail(path: Path) -> None:
    with path.open("w") as file:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), None) if file else AssertionError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megatron_patch.data.train_tokenizer import save, train

    folder = tmp_path_factory.mktemp("world")
    texts = [path.read_text() for path in sorted((REPOSITORY / "megatron_patch").glob("*/*.py"))[:20]]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = [
        {"messages": [{"role": "user", "content": t[:90]}, {"role": "assistant", "content": t[90:400]}]} for t in texts
    ]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 20))
    save(train([folder / "text.jsonl"], vocab_size=700), folder / "tok")
    return folder


TOOLS = {
    "tokenizer": "data.train_tokenizer --vocab-size 700 text.jsonl OUT/tok",
    "model": "checkpoint.random_model tiny OUT/m --tokenizer tok",
    "pretrain": "data.preprocess --workers 1 text.jsonl tok OUT/data",
    "sft": "data.sft.build_idxmap --workers 1 --max-lost 1 chat.jsonl LLama3Tokenizer 512 OUT/sft tok",
    "inspect": "data.sft.inspection --tokenizer tok --workers 1 chat.jsonl --cache OUT",
}


@pytest.mark.parametrize(
    "tool",
    ["tokenizer", "model", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pretrain", "sft", "inspect"))],
)
def test_a_tool_says_so(world: Path, tmp_path: Path, tool: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *f"megatron_patch.{TOOLS[tool]}".replace("OUT", str(tmp_path)).split()],
        cwd=world, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT)), check=False,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert (
        last.startswith(f"error: {tmp_path}/")
        and " cannot be written: File too large; a file may have 20,000 bytes" in last
    )
    assert "Traceback" not in done.stderr
    left = [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert left == [] or (tool == "pretrain" and all(".partial" in name for name in left)), "only what goes on later"


def test_a_name_that_is_too_long_is_a_sentence() -> None:
    with pytest.raises(OSError) as caught:
        Path("x" * 300).is_dir()
    assert str(explain(caught.value)) == f"{'x' * 300}: File name too long"
