"""The short form of the campaign: a few cases of each part, by the same code; and that its attacks would work."""

from __future__ import annotations

import contextlib
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import command_lines, kills, phases, soak, tools
from .campaign import REPOSITORY, RESULTS, Case, Outcome, Part, read_results, run_part, spread, without_this_machine
from .hostile import gadgets
from .page import PAGE, page
from .parts import PARTS
from .warm_start import STARTER

SHORT = {"command_lines": command_lines.short_cases, "kills": kills.short_cases, "soak": soak.short_cases}
"""Parts whose cases are too long: others take some of their own."""


PATIENCE = 400.0
"""Seconds, for what takes one or two; the campaign itself is stricter, on a machine that does nothing else."""


@pytest.fixture(scope="module", autouse=True)
def servers() -> Iterator[None]:
    """Both import torch at the same time; nothing fails because this machine is busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "LIMIT", PATIENCE)
        patch.setattr(kills, "PATIENCE", PATIENCE)
        STARTER.begin()
        tools.begin()
        yield


def short_cases() -> list[tuple[str, Case]]:
    """What `make test` runs."""
    found = []
    for part in PARTS:
        cases = SHORT[part.name]() if part.name in SHORT else spread(part.cases(), part.short)
        found += [(part.name, case) for case in cases]
    return found


@pytest.mark.parametrize(
    ("part", "case"), [pytest.param(*pair, id=f"{pair[0]}: {pair[1].name}") for pair in short_cases()]
)
def test_each_case_of_the_short_form_has_no_problem(part: str, case: Case, tmp_path: Path) -> None:
    assert case.run(tmp_path).problem == ""


@pytest.mark.parametrize("name", gadgets(Path()))
def test_the_attacks_would_work(tmp_path: Path, name: str) -> None:
    """On a reader that is not restricted."""
    canary = tmp_path / "executed"
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(gadgets(canary)[name]))
    deadline = time.monotonic() + PATIENCE
    while not canary.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert canary.exists()


def test_names_are_unique_and_goals_can_be_reached() -> None:
    for part in PARTS:
        names = [case.name for case in part.cases()]
        assert len(set(names)) == len(names)
        assert len(names) * (command_lines.BATCH if part.name == "command_lines" else 10_000) >= part.goal


def test_a_stopped_part_goes_on(tmp_path: Path) -> None:
    """Each result is kept at once; a case that has one is not run again, unless it is asked for."""
    ran: list[str] = []

    def case(name: str) -> Case:
        def run(folder: Path) -> Outcome:
            ran.append(name)
            return Outcome(problem="bad" if name == "b" and ran.count("b") == 1 else "", noticed=1)

        return Case(name=name, kind="k", run=run)

    part = Part(name="p", title="P", goal=3, must="m", how="h", short=1, cases=lambda: [case(name) for name in "abc"])
    for _ in zip(range(2), run_part(part, folder=tmp_path, say=lambda line: None), strict=False):
        pass
    list(run_part(part, folder=tmp_path, say=lambda line: None))
    assert ran == ["a", "b", "c"]
    list(run_part(part, folder=tmp_path, again="failed", say=lambda line: None))
    assert ran == ["a", "b", "c", "b"]
    assert [(result.case, result.outcome.problem) for result in read_results("p", tmp_path)] == [
        ("a", ""), ("b", ""), ("c", ""),
    ]  # fmt: skip


def test_kept_results_name_no_place_of_this_machine() -> None:
    try:
        Path(tempfile.gettempdir(), "faults-p-x1y2", "place", "link").read_text()
    except OSError:
        found = traceback.format_exc() + f'File "{REPOSITORY}/megatron_patch/cli.py", line 3'
    kept = without_this_machine(found)
    assert "faults-p-x1y2" in found and "'place/link'" in kept
    assert 'File "megatron_patch/cli.py"' in kept
    for place in (str(REPOSITORY), sys.base_prefix, tempfile.gettempdir() + "/"):
        assert place not in kept
        assert [file.name for file in RESULTS.iterdir() if place in file.read_text(encoding="utf-8")] == []


def test_the_page_is_made_from_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
