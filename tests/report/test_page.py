"""What the page says, read from its text."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from megatron_patch.charts.lines import round_ticks, smooth, thin, value_range
from megatron_patch.charts.svg import COLORS
from megatron_patch.charts.text import compact
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.command import rank_variables
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import content_of
from megatron_patch.report.collect import collect, read_run
from megatron_patch.report.page import render
from megatron_patch.report.training import PARTS, driver_command
from megatron_patch.runs.folder import write_plan
from megatron_patch.runs.recovery import Event, note_event
from megatron_patch.runs.status import take

from ..launch.conftest import VALUES
from .conftest import SCRIPT, metrics, write_check, write_metrics, write_tasks

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "input"}


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG's `<line .../>`."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(*folders: Path) -> str:
    text = render(collect(folders))
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    return text


def words(text: str, lang: str) -> str:
    """What a reader of one language sees."""
    other = {"en": "zh", "zh": "en"}[lang]
    text = re.sub(rf'<(span|tspan) lang="{other}">.*?</\1>', "", text, flags=re.DOTALL)
    text = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_patch.report", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_whole_life_is_on_the_page(life: Path) -> None:
    text = page_of(life)
    english, chinese = words(text, "en"), words(text, "zh")
    for expected in (
        "pretrain: finished · iteration 120 / 120 ·", "all 2 commands, in order", "second",
        "learning rate 0.001 → 0.0001",
        "loss (bold: smoothed; dots: validation)", "gradient norm, before clipping", "tokens/s per device",
        "TFLOP/s per device", "measured 944 MB", "start-mcore passed", "relative L2 error against Hugging Face, bf16",
        "The questions are invented", "CMMLU: STEM", "All 119 subjects", "Agronomy", "it took 0 s", "no GPU here",
    ):  # fmt: skip
        assert expected in english, expected
    for expected in ("已完成", "全部 2 条命令", "学习率", "梯度范数", "通过", "题目是虚构的", "CMMLU：理工", "农学"):
        assert expected in chinese, expected
    assert "accuracy" not in chinese.lower()
    assert SCRIPT not in text, "text is not escaped"
    assert english.count(f"first --of {SCRIPT}") == 1


def test_scores_of_other_tasks(life: Path, tmp_path: Path) -> None:
    """Side by side where the same was asked, with lm_eval's own figures; CMMLU and C-Eval are not needed for that."""
    english, chinese = words(page_of(life), "en"), words(page_of(life), "zh")
    assert "Tasks of lm_eval 0.4.13, float32, on 1 × cpu" in english and "每个任务只取前 20 题" in chinese
    table = english[english.index("Tasks of lm_eval") :]
    for row in (
        r"metric\s+shots\s+questions\s+base\s+trained",
        r"hellaswag\s+acc_norm\s+0\s+20\s+0\.2 ± 0\.05\s+0\.6 ± 0\.05",
        r"gsm8k\s+exact_match \(strict-match\)\s+0\s+20\s+0\.1 ± 0\.02\s+0\.3 ± 0\.02",
        r"wikitext\s+word_perplexity\s+0\s+20\s+31\.25\s+31\.25",
    ):
        assert re.search(row, table), row
    assert "Not found" not in english
    write_tasks(tmp_path / "alone" / "one", "one", 0.5)
    write_tasks(tmp_path / "alone" / "two", "two", 0.5, settings={"limit": 10})
    alone = words(page_of(tmp_path / "alone"), "en")
    assert alone.count("Tasks of lm_eval") == 2, "not the same questions"
    assert f"evaluate.sh one hellaswag {SCRIPT}" in alone


def test_nothing_comes_from_elsewhere(life: Path) -> None:
    text = page_of(life)
    assert not re.findall(r'(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg")', text)


def test_differences_have_their_paired_error(life: Path) -> None:
    text = words(page_of(life), "en")
    comparison = re.search(r"CMMLU\s+134\s+([\d.]+)\s+([\d.]+)\s+([+-][\d.]+)\s+([\d.]+)\s+(\d+) / (\d+)", text)
    assert comparison
    first, second, difference, error = map(float, comparison.groups()[:4])
    assert difference == pytest.approx(second - first, abs=0.11)
    assert 0 < error < 10
    assert difference > 2 * error
    assert 'class="up"' in page_of(life)


def test_a_failed_check_is_said_in_three_places(copy: Path) -> None:
    write_check(copy / "bad", wrong=True)
    text = words(page_of(copy), "en")
    assert "1 / 2" in text
    assert "FAILED" in text
    assert "first out of tolerance: layer 2 attention: 0.3 > 0.01" in text
    assert "the layer check failed" in text


def test_a_run_that_still_writes(new_run: Callable[..., Path], tmp_path: Path) -> None:
    """Its last line is torn, its length is known, it was written to a moment ago."""
    run = new_run(tmp_path / "run", done=30, torn='{"iteration": 31, "lo')
    text = page_of(run)
    assert "running · iteration 30 / 120" in words(text, "en")
    assert 'style="width:25.0%"' in text
    assert "the last line of metrics.jsonl is not complete yet" in words(text, "en")
    os.utime(run / "metrics.jsonl", (time.time() - 3600,) * 2)
    assert "stopped" in words(page_of(run), "en")
    lock = take(run)
    assert "running · iteration 30 / 120" in words(page_of(run), "en"), "a step may take longer than that"
    os.close(lock)
    write_metrics(run, [])
    assert "Not found: metrics.jsonl" in words(page_of(run), "en")


def test_the_way_to_the_first_step(new_run: Callable[..., Path], tmp_path: Path) -> None:
    """In its order; a file of another form is named."""
    run = new_run(tmp_path / "run")
    (run / "startup.json").write_text('{"seconds": 5.0, "parts": {"torch": 3.96, "data": 0.01, "first step": 1.03}}')
    assert "5.0 s: torch 4.0, first step 1.0<" in page_of(run)
    (run / "startup.json").write_text('{"parts": 3}')
    assert "startup.json: not used" in page_of(run)


def test_several_runs_are_overlaid(new_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [new_run(tmp_path / name, done) for name, done in (("a", 120), ("b", 80), ("c", 40))]
    text = page_of(*runs)
    loss = text[text.index("loss (bold") :].split("</svg>")[0]
    lines = re.findall(r'class="series line s(\d)" data-label="(\w)"', loss)
    assert lines == [("0", "a"), ("1", "b"), ("2", "c")]
    rows = re.findall(r"<tr><th><i.*?</tr>", text)
    assert [re.sub("<[^>]+>", "", row)[0] for row in rows] == ["a", "b", "c"]


def test_mfu_where_the_device_is_known(new_run: Callable[..., Path], tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    plan = json.loads((run / "plan.json").read_text())
    plan["gpu"] = {"name": "NVIDIA H200", "memory_bytes": 150 * 10**9}
    (run / "plan.json").write_text(json.dumps(plan))
    text = words(page_of(run), "en")
    assert f"{100 * 400 / 989:.1f}%" in text
    assert "MFU, % of dense bf16" in text


def test_the_bar_is_all_of_the_plans_memory(new_run: Callable[..., Path], tmp_path: Path) -> None:
    plan = json.loads((new_run(tmp_path / "run") / "plan.json").read_text())
    parts = set(plan["memory"]) - {"stage", "host_optimizer", "saved"}
    assert set(PARTS) == parts, "a part of the plan has no name here"
    assert len(PARTS) < len(COLORS), "and one for Python"


def test_numbers_that_are_none(new_run: Callable[..., Path], tmp_path: Path) -> None:
    """A loss that is NaN, skipped iterations, lines that are no JSON."""
    run = new_run(tmp_path / "run")
    lines = metrics(40)
    lines[5]["loss"], lines[7]["skipped"] = None, 1
    write_metrics(run, lines, "not json\n")
    text = words(page_of(run), "en")
    assert "no finite loss in 1 iteration, first in 6" in text
    assert "1 iteration was skipped" in text
    assert "1 lines of metrics.jsonl are not readable" in text
    assert "nan" not in re.findall(r'points="([^"]*)"', page_of(run))


def test_files_that_cannot_be_used_are_named(copy: Path) -> None:
    (copy / "start-mcore/check.json").write_text("{")
    (copy / "evaluation/base/results.json").write_text('{"subjects": 3}')
    (copy / "evaluation/trained/per_question.jsonl").unlink()
    text = words(page_of(copy), "en")
    assert text.count("not used") == 2
    assert "start-mcore/check.json" in text


def test_the_command_writes_a_page_or_says_what_is_missing(copy: Path, tmp_path: Path) -> None:
    done = report(copy)
    assert done.returncode == 0, done.stderr
    assert f"{copy}/report.html: 2 runs, 1 check, 2 evaluations" in done.stdout
    assert (copy / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "empty").mkdir()
    done = report(tmp_path / "empty")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing to report" in done.stderr
    done = report(tmp_path / "nowhere", copy, "--output", tmp_path / "page.html")
    assert done.returncode == 2
    assert "nowhere is not a folder" in done.stderr


def test_thinning_keeps_spikes() -> None:
    points = [(float(i), 100.0 if i == 5003 else 1.0) for i in range(10000)]
    thinned = thin(points)
    assert len(thinned) < 800
    assert (5003.0, 100.0) in thinned
    assert [x for x, _ in thinned] == sorted({x for x, _ in thinned})


def test_smoothing_is_centred() -> None:
    line = [(float(i), 2.0 * i) for i in range(100)]
    assert smooth(line, 5)[50] == (50.0, pytest.approx(100.0))
    assert smooth([(1.0, 3.0)], 5) == [(1.0, 3.0)]


def test_axes_have_round_ticks_and_a_range() -> None:
    assert round_ticks(0, 600, 6) == [0, 100, 200, 300, 400, 500, 600]
    assert value_range([3.0, 3.0 + 1e-15], False) == pytest.approx((2.7, 3.3))
    assert value_range([0.5, 20.0], True) == (0.1, 100.0)
    assert [compact(v) for v in (0, 0.000125, 2328.4, 614400, 8.03e9)] == ["0", "1.25e-4", "2328", "614k", "8.03G"]
    assert [compact(v) for v in (float("nan"), -float("inf"))] == ["nan", "-inf"]


def test_the_command_makes_the_run_again(
    new_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder: every variable that was set, also those that only say where it runs or how it is looked at."""
    folder = new_run(tmp_path / "run")
    data = json.loads((folder / "plan.json").read_text())["values"]["DATASET_PATH"]
    values = [*VALUES.split()[:-1], str(folder)]
    environ = {
        "MP_TOKENIZER_PATH": "tokenizer", "MP_NPROC": "2", "MP_PROFILE": "3-4", "MP_SEED": "1234", "MP_LANG": "en",
        "MP_MEGATRON_ARGS": "--log-params-norm", "MP_MEMORY_CHECK": "false", "MP_VP": "", "OMP_NUM_THREADS": "3",
    }  # fmt: skip
    monkeypatch.chdir(Path(data).parent)
    first, _, problems = make_plan(values, environ, dry_run=True)
    assert first is not None, problems
    write_plan(folder, content_of(first))
    words = shlex.split(driver_command(read_run(folder, "run")))
    monkeypatch.chdir(tmp_path)
    typed = dict(word.split("=", 1) for word in words[: words.index("sh")])
    assert typed.keys() == environ.keys() - {"MP_VP"}
    second, environment, problems = make_plan(words[words.index("sh") + 2 :], typed, dry_run=True)
    assert second is not None, problems
    assert megatron_argv(second) == megatron_argv(first)
    assert rank_variables(second, environment)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("model_type", "script"),
    [
        ("qwen3", "qwen3/run_mcore_qwen3.sh"),
        ("llama", "llama3_1/run_mcore_llama3_1.sh"),
        ("of a later version", "llama3_1/run_mcore_llama3_1.sh"),
    ],
)
def test_the_command_is_of_the_models_family(
    model_type: str, script: str, new_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = new_run(tmp_path / "run")
    plan = json.loads((folder / "plan.json").read_text())
    plan["model"]["model_type"] = model_type
    (folder / "plan.json").write_text(json.dumps(plan))
    assert f"sh examples/{script} dsw " in driver_command(read_run(folder, "run"))


def test_profiles_and_growing_batches(new_run: Callable[..., Path], tmp_path: Path) -> None:
    """A bar and a table for each recorded rank; the batch has a curve where it changes; a bad file is named."""
    run = new_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [
        line | ({"batch": 8 + line["iteration"] // 60, "reserved_bytes": 2 << 30} if "loss" in line else {})
        for line in lines
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "profile").mkdir()
    kinds = [{"kind": "matmuls", "seconds": 0.5, "calls": 40}, {"kind": "idle", "seconds": 0.25, "calls": 0}]
    kernel = {"name": SCRIPT, "kind": "matmuls", "seconds": 0.5, "calls": 40}
    content = {"rank": 0, "device": "x", "iterations": [3, 4], "wall_s": 1.0, "exposed_communication_s": 0.1}
    content |= {"kinds": kinds, "kernels": [kernel], "trace": "rank_0.trace.json.gz"}
    (run / "profile" / "rank_0.json").write_text(json.dumps(content))
    (run / "profile" / "rank_1.json").write_text(json.dumps(content | {"wall_s": "long"}))
    uneven = content | {"rank": 2, "iterations": [3, 6], "steps": 2, "skipped": [6]}
    (run / "profile" / "rank_2.json").write_text(json.dumps(uneven))
    page = words(page_of(run), "en")
    for said in (
        "Where the time goes",
        "iterations 3 to 4, 500.0 ms each",
        "iterations 3 to 6 without 2 passed over, 6 skipped (no optimizer step), 500.0 ms each",
        "matmuls 50.0%",
        "250.00",
        "batch, sequences",
    ):
        assert said in page, said
    assert "rank_1.json: not used: wall_s" in page
    assert "GB reserved" in page
    assert SCRIPT in page  # as text


def test_what_happened_to_a_run(tmp_path: Path) -> None:
    """Events are listed under the loss and marked in it; a step that a spike lost is not the loss scaler's."""
    lines = metrics(12)
    lines[6] |= {"loss": None, "grad_norm": None, "skipped": True, "refusal": "iteration 7: the loss is NaN or inf"}
    write_metrics(tmp_path, lines)
    for kind, said in (("skip", "iteration 7: <b>NaN</b>"), ("restart", "restart 1 of 3: rank 1 was killed")):
        note_event(tmp_path, Event(kind=kind, iteration=7, words=said))  # type: ignore[arg-type]
    text = page_of(tmp_path)
    english = words(text, "en")
    assert "step skipped: iteration 7: <b>NaN</b>" in english and "restart: restart 1 of 3" in english
    assert "events, listed below" in english and "loss scaler" not in english
    assert "重新启动" in words(text, "zh")
    (tmp_path / "events.jsonl").unlink()
    assert "events, listed below" not in page_of(tmp_path)
