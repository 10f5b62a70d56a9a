"""Whatever JSON lies in a run's folder, the page and the terminal's view are made, and say what could not be read."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from megatron_patch.charts.lines import Series, line_chart, round_ticks, value_range
from megatron_patch.charts.text import compact
from megatron_patch.report.collect import collect
from megatron_patch.report.page import render
from megatron_patch.watch.follow import Follower
from megatron_patch.watch.view import frame

from .test_page import Balanced

FILES = (
    "launcher.lock",
    "ended.json",
    "plan.json",
    "startup.json",
    "metrics.jsonl",
    "check.json",
    "results.json",
    "tasks.json",
    "per_question.jsonl",
)
SILENT = ("per_question.jsonl", "launcher.lock", "ended.json")
"""Of these the page shows nothing where they cannot be read: all that they say is there without them."""
HOSTILE = st.sampled_from(
    [None, True, False, "", "x", "\x1b[31m\u202e</script>", [], {}, [[]], -1, 0, 1, 2**31, 2**53, 10**400, 1.5, 1e300,
     5e-324, -0.0, float("nan"), float("inf"), float("-inf"), "NaN", "9" * 5000, [None] * 3, {"": None}, "\ud800"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BASE = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(life: Path, new_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run, a check and two evaluations, in one place each."""
    place = tmp_path_factory.mktemp("any") / "life"
    new_run(place / "run", done=12)
    (place / "run/startup.json").write_text('{"seconds": 5.0, "parts": {"torch": 3.96}}')
    (place / "run/logs/launcher.lock").write_text('{"host": "h", "pid": 1, "since": 1.7e9, "stopping": "SIGTERM"}')
    (place / "run/ended.json").write_text('{"how": "stopped", "cause": "a signal", "iteration": 12, "at": 1.7e9}')
    for name in ("start-mcore", "evaluation"):
        shutil.copytree(life / name, place / name)
    return place


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value stands, of every value; of long lists the first two."""
    yield path
    if isinstance(content, dict):
        for key, inner in content.items():
            yield from places(inner, (*path, key))
    elif isinstance(content, list):
        for number, inner in enumerate(content[:2]):
            yield from places(inner, (*path, number))


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The content with another value in one place."""
    if not path:
        return value
    changed = copy.copy(content)
    changed[path[0]] = replaced(content[path[0]], path[1:], value)
    return changed


def made(folder: Path) -> str:
    """The page's text, after the view was drawn too."""
    follower = Follower(folder / "run")
    follower.look()
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        Console(file=nowhere, width=100).print(
            frame(follower.run, follower.ended, now=follower.run.written + 60, width=100)
        )
    text = render(collect([folder])).encode("utf-8", "replace").decode()
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    assert "</script><b>" not in text
    assert "</script>" not in text.removesuffix("</script></body></html>\n").removesuffix("</script></body></html>")
    return text


@pytest.mark.parametrize("examples", [8, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_any_json(folder: Path, name: str, examples: int) -> None:
    """First any JSON instead of the file, then any value in each place of a good one."""
    file = next(iter(sorted(folder.rglob(name))))
    good = file.read_text()
    lines = name.endswith(".jsonl")
    content = json.loads(good.splitlines()[-1] if lines else good)
    every = list(places(content))

    def tried(value: Any) -> None:
        text = json.dumps(value)
        file.write_text(good + text + "\n" if lines else text)
        made(folder)

    @settings(BASE, max_examples=examples)
    @given(JSON)
    def whole(value: Any) -> None:
        tried(value)

    @settings(BASE, max_examples=2 * examples)
    @given(st.sampled_from(every), HOSTILE | JSON)
    def inside(path: tuple[Any, ...], value: Any) -> None:
        tried(replaced(content, path, value))

    try:
        whole()
        inside()
    finally:
        file.write_text(good)


@pytest.mark.parametrize("text", [b"", b"\0", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000])
def test_what_is_not_json(folder: Path, text: bytes) -> None:
    """Each file is named, with a reason, beside all that is good."""
    before = {file: file.read_bytes() for name in FILES for file in folder.rglob(name)}
    try:
        for file in before:
            file.write_bytes(text + b"\n")
        page = made(folder)
        named = {file.name for file in before if file.name not in SILENT}
        assert {name for name in named if name in page} == named
        english = re.sub(r'<span lang="zh">.*?</span>', "", page)
        assert english.count("not used") == 7
    finally:
        for file, content in before.items():
            file.write_bytes(content)


def test_the_value_is_named(folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder, tmp_path / "life")) / "run"
    plan = json.loads((run / "plan.json").read_text())
    plan["layout"]["tp"] = "two"
    (run / "plan.json").write_text(json.dumps(plan))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 13, "loss": [7]}\n{"iteration": -1, "loss": 7}\n')
    (run / "logs/rank_1.log").symlink_to("rank_1.log")
    os.utime(run / "metrics.jsonl", (1e18, 1e18))
    page = made(run.parent)
    assert "plan.json: not used: layout.tp: Input should be a valid integer" in page
    assert "2 lines of metrics.jsonl are not readable: left out; line 14: loss: Input should be a valid number" in page


@settings(BASE, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2**53), st.floats(-1e30, 1e30)), min_size=1, max_size=30), st.booleans())
def test_any_points_give_a_chart_with_a_finite_range(points: list[tuple[float, float]], log_y: bool) -> None:
    chart = line_chart([Series(label="a", points=sorted(points))], title="t", x_label="x", log_y=log_y)
    assert chart.startswith("<svg")
    assert "nan" not in chart
    assert "inf" not in chart
    low, high = value_range([y for _, y in points], log_y)
    assert low < high
    assert len(round_ticks(low, high, 5)) < 20


@settings(BASE, max_examples=100)
@given(st.floats(-1e30, 1e30))
def test_any_number_is_short(value: float) -> None:
    assert len(compact(value)) < 12
