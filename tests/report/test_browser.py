"""The page in a real browser: headless Chromium, where this machine has one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from megatron_patch.report.collect import collect
from megatron_patch.report.page import render

from . import chromium

pytestmark = pytest.mark.skipif(
    chromium.find() is None,
    reason=f"no {', '.join(chromium.NAMES)} on this machine; the project installs none (apt-get install chromium)",
)
PAPER = {"light": (251, 250, 247), "dark": (23, 24, 27)}
"""Of page.css."""


@pytest.fixture(scope="module")
def file(life: Path) -> Path:
    """The report."""
    (life / "report.html").write_text(render(collect([life])), encoding="utf-8")
    return life / "report.html"


@pytest.fixture
def page(file: Path) -> Iterator[chromium.Page]:
    """In a window of 1100 by 900; whatever its console says fails the test."""
    with chromium.page(str(chromium.find())) as page:
        page.size(1100, 900)
        page.prefers("light")
        page.open(file)
        yield page
        assert page.complaints == []
        assert page.requests == [file.as_uri()], "it is not self-contained"


def colors(page: chromium.Page, folder: Path) -> tuple[tuple[int, ...], int]:
    """The corner's colour, and how many colours the picture has."""
    with Image.open(page.picture(folder / "page.png")) as picture:
        small = picture.convert("RGB")
        return small.getpixel((2, 2)), len(small.getcolors(maxcolors=1 << 24))


def visible(page: chromium.Page) -> str:
    """What can be read."""
    return page.run("document.body.innerText")


def test_light_dark_and_languages(page: chromium.Page, tmp_path: Path) -> None:
    corner, count = colors(page, tmp_path)
    assert corner == PAPER["light"]
    assert count > 200, "nothing is drawn"
    assert "What ran" in visible(page)
    assert "运行内容" not in visible(page)
    page.click("label[for=zh]")
    page.click("label[for=dark]")
    assert colors(page, tmp_path)[0] == PAPER["dark"]
    assert "运行内容" in visible(page)
    assert "What ran" not in visible(page)
    page.click("label[for=auto]")
    assert colors(page, tmp_path)[0] == PAPER["light"]
    page.prefers("dark")
    assert colors(page, tmp_path)[0] == PAPER["dark"]


def test_every_chart_has_a_size_and_shows_its_lines(page: chromium.Page) -> None:
    boxes = page.run(
        "[...document.querySelectorAll('svg')].map(n => { const b = n.getBoundingClientRect();"
        "return [n.getAttribute('aria-label'), b.width, b.height]; })"
    )
    assert len(boxes) == 9, boxes
    assert all(width > 300 and height > 60 for _, width, height in boxes), boxes
    outside = page.run(
        "[...document.querySelectorAll('svg text')].filter(n => n.getBoundingClientRect().width &&"
        "(n.getBoundingClientRect().left < 0 || n.getBoundingClientRect().right > innerWidth)).map(n => n.textContent)"
    )
    assert outside == []
    strokes = page.run("[...document.querySelectorAll('polyline.line')].map(n => getComputedStyle(n).stroke)")
    assert strokes
    assert not {"none", "rgb(0, 0, 0)"} & set(strokes), "a line without colour"


def test_values_under_the_pointer(page: chromium.Page) -> None:
    page.hover("svg.chart")
    tip = page.run("document.querySelector('.tip').innerText").split()
    assert tip[0].isdecimal()
    assert 55 < int(tip[0]) < 65, "the middle of 120 iterations"
    assert tip[1] == "pretrain"
    assert 2 < float(tip[2]) < 5


def test_commands_are_copied_whole(page: chromium.Page, life: Path) -> None:
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.click(".command button")
    assert page.run("window.copied").splitlines() == (life / "commands.txt").read_text().splitlines()[:2]


def test_a_telephone_scrolls_only_inside_sections(page: chromium.Page) -> None:
    page.size(420, 900)
    assert page.run("document.documentElement.scrollWidth") <= 420
