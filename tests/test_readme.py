"""The commands that the READMEs show run as they stand, in order, in a copy of the working tree.

Every fenced `bash` block is run, unless the line before the fence is `<!-- not run: reason -->`.
The environment only makes them short (QUICKSTART_ITERS) and names the interpreter (PYTHON): one that has its imports
behind it (faults/warm_python.py), in a slow test the real one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .faults.warm_python import warm_python

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "examples/llama3_1/README.md")
FENCE = re.compile(r"^(?P<before>[^\n]*)\n```bash\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
TRIED = "runs/try/tp2"
"""What the second README trains first, and starts from later."""
NOT_RUN = re.compile(r"<!-- not run: .+ -->")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of commands."""

    where: str
    code: str
    run: bool


def blocks_of(readme: str) -> list[Block]:
    text = "\n" + (ROOT / readme).read_text(encoding="utf-8")
    return [
        Block(
            where=f"{readme}:{text[: match.start('code')].count(chr(10)) - 1}",
            code=match["code"],
            run=not NOT_RUN.fullmatch(match["before"].strip()),
        )
        for match in FENCE.finditer(text)
    ]


def copy_tree(folder: Path) -> Path:
    """The working tree, as git sees it, elsewhere."""
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("readme") / "copy of it")


@pytest.fixture(scope="module")
def warm(copy: Path) -> Iterator[str]:
    """The interpreter of the copy."""
    with warm_python(copy) as python:
        yield str(python)


def run_all(readme: str, folder: Path, python: str, **variables: str) -> int:
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")}
    environment |= {"PYTHON": python, "QUICKSTART_ITERS": "10", "OMP_NUM_THREADS": "1"}
    environment |= variables
    blocks = [block for block in blocks_of(readme) if block.run]
    for block in blocks:
        if "DRY_RUN" in variables and not re.search(r"run_mcore|_llm\.py", block.code):
            continue  # it takes what a training leaves
        if "DRY_RUN" in variables and f" {TRIED} " in block.code and not (folder / TRIED).exists():
            # a start that a dry run has not trained
            (folder / TRIED).parent.mkdir(exist_ok=True)
            (folder / TRIED).symlink_to(folder / "runs/quickstart/pretrain")
        done = subprocess.run(
            ["bash", "-euc", block.code], cwd=folder, env=environment, capture_output=True, text=True, timeout=1500
        )
        assert done.returncode == 0, f"{block.where}\n{block.code}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return len(blocks)


@pytest.fixture(scope="module")
def after_readme(copy: Path, warm: str) -> Path:
    """The copy after all of README.md was typed: the other README goes on from there."""
    assert run_all("README.md", copy, warm) >= 2
    return copy


@pytest.mark.timeout(3000)
def test_the_readmes_commands_leave_a_whole_report(after_readme: Path) -> None:
    check_quickstart(after_readme / "runs" / "quickstart")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_readmes_commands_in_whole_interpreters(tmp_path: Path) -> None:
    copy = copy_tree(tmp_path / "copy of it")
    run_all("README.md", copy, sys.executable)
    check_quickstart(copy / "runs" / "quickstart")


def check_quickstart(quickstart: Path) -> None:
    for name in ("loss.png", "summary.md", "tokenizer/tokenizer.json", "pretrain/metrics.jsonl"):
        assert (quickstart / name).stat().st_size > 0
    report = (quickstart / "report.html").read_text(encoding="utf-8")
    for part in ("pretrain", "finetune", "start-mcore", "trained-hf", "All 119 subjects", "evaluate.sh"):
        assert part in report, f"report.html says nothing of {part}"
    assert "Not found" not in report


def test_a_warm_python_is_called_as_python_is(warm: str, tmp_path: Path) -> None:
    """Arguments, folder, variables, streams, modules, statuses and signals."""
    (tmp_path / "told.py").write_text(
        "import os, sys\nprint(sys.argv, os.getcwd(), os.environ['TOLD'], sys.stdin.read(), __name__, flush=True)\n"
        "print('heard', file=sys.stderr)\nos.write(int(sys.argv[2]), b'more')\n"
        "sys.exit(7) if sys.argv[1] == 'exit' else os.kill(os.getpid(), int(sys.argv[1]))\n"
    )
    found = []
    for python in (warm, sys.executable):
        for end in ("exit", "9", "15"):
            read, write = os.pipe()
            command, environ = [python, "-u", "told.py", end, str(write)], os.environ | {"TOLD": "by a test"}
            done = subprocess.run(
                command, cwd=tmp_path, env=environ, input="said", capture_output=True, text=True, pass_fds=[write]
            )
            os.close(write)
            more = os.read(read, 10)
            os.close(read)
            said = done.stdout.replace(str(write), "FD")
            found.append((end, done.returncode, said, done.stderr, more))
        module = subprocess.run(
            [python, "-m", "json.tool", "--compact"], input="[1, 2]", capture_output=True, text=True
        )
        found.append((module.returncode, module.stdout, module.stderr))
        found.append(subprocess.check_output([python, "-c", "print(1)"], text=True))
    assert found[: len(found) // 2] == found[len(found) // 2 :]
    assert found[0] == ("exit", 7, found[0][2], "heard\n", b"more")


@pytest.mark.timeout(3000)
def test_llama3_1_readme_is_accepted(after_readme: Path, warm: str) -> None:
    """Every command of its, as far as a dry run goes; nothing is trained."""
    try:
        assert run_all("examples/llama3_1/README.md", after_readme, warm, DRY_RUN="1") >= 1
        assert [path.name for path in (after_readme / TRIED).parent.iterdir()] == [Path(TRIED).name]
    finally:
        (after_readme / TRIED).unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_llama3_1_readme(after_readme: Path) -> None:
    """The same for real: four trainings."""
    assert run_all("examples/llama3_1/README.md", after_readme, sys.executable) >= 1


@pytest.mark.parametrize("readme", READMES)
def test_what_is_not_run_says_why(readme: str) -> None:
    fences = re.findall(r"^```(\w*)$", (ROOT / readme).read_text(encoding="utf-8"), re.MULTILINE)
    assert not {"sh", "shell", "console", "zsh"} & set(fences), "commands are fenced as bash, all else as text"
    assert len(blocks_of(readme)) == fences.count("bash")


PAGES = sorted(
    str(path.parent.relative_to(ROOT)) for path in [*ROOT.glob("README_zh*"), *ROOT.glob("examples/*/README_zh*")]
)


def test_every_family_has_both_languages() -> None:
    """Tanuki's are English and Japanese."""
    families = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("examples/*/README.md")}
    assert families - set(PAGES) == {"examples/tanuki_8b"}


@pytest.mark.parametrize("folder", PAGES)
def test_both_languages_show_the_same_commands_and_figures(folder: str) -> None:
    english, chinese = ((ROOT / folder / name).read_text(encoding="utf-8") for name in ("README.md", "README_zh-CN.md"))

    def code(text: str) -> list[str]:
        found = re.findall(r"```(?:bash\n|text\n(?=sh |MP_))(.*?)```", text, re.DOTALL)
        return [block.split(" #")[0].strip() for block in found]

    def figures(text: str) -> list[str]:
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        return sorted(re.findall(r"\d[\d.,]*\d|\d", prose))

    def flags(text: str) -> list[list[str]]:
        """Of NeMo: spellings and what they become."""
        rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `--")]
        return [[row[0], row[2].replace("拒绝", "refused")] for row in rows]

    assert code(english) == code(chinese)
    assert figures(english) == figures(chinese)
    assert flags(english) == flags(chinese)


TRANSLATED = sorted(ROOT.glob("docs/*.zh-CN.md")) + sorted(ROOT.glob("LM-Evaluation-Harness/*.zh-CN.md"))


@pytest.mark.parametrize("chinese", TRANSLATED, ids=lambda path: path.name)
def test_a_page_in_chinese_has_the_parts_of_the_english_one(chinese: Path) -> None:
    """Headings, rows of tables and commands; comments in commands are translated."""
    english = chinese.with_name(chinese.name.replace(".zh-CN", ""))

    def parts(page: Path) -> tuple[list[str], int, list[str]]:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        rows = len(re.findall(r"^\|", prose, re.MULTILINE))
        return re.findall(r"^#+ ", prose, re.MULTILINE), rows, [re.sub(r" +#.*", "", block) for block in blocks]

    assert parts(english) == parts(chinese)
