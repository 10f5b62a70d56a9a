"""loss.svg: a picture that stands alone, of what metrics.jsonl says."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

from megatron_patch.trainer.callbacks.base import End, Rank
from megatron_patch.trainer.callbacks.plot import LossPlot, draw
from megatron_patch.trainer.metrics import MetricsFile
from megatron_patch.trainer.screen import Screen
from megatron_patch.trainer.startup import Startup

from .harness import Run

SVG = "{http://www.w3.org/2000/svg}"


def curves(picture: str) -> dict[tuple[str, str], int]:
    """Points of each line or row of dots, by label and class."""
    drawn = ElementTree.fromstring(picture)
    lines = {(one.get("data-label"), one.get("class")): one.get("points") for one in drawn.iter(f"{SVG}polyline")}
    dots = {(one.get("data-label"), one.get("class")): one.get("data-points") for one in drawn.iter(f"{SVG}g")}
    return {name: len(points.split()) for name, points in (lines | dots).items()}


def test_a_run_leaves_its_plot(reference: Run) -> None:
    assert curves((reference.output / "loss.svg").read_text()) == {("training", "series line s0"): 20}


def test_validation_smoothing_and_nan() -> None:
    records: list[dict[str, object]] = [{"iteration": number, "loss": 9 / number} for number in range(1, 201)]
    records[49]["loss"] = None
    records += [{"iteration": 100, "validation_loss": 0.2}, {"iteration": 200, "validation_loss": 0.1}]
    picture = draw(records)
    assert curves(picture) == {
        ("training", "series faint s0"): 199,
        ("training", "series line s0"): 199,
        ("validation", "series dots"): 2,
    }
    assert draw([]) == ""
    assert draw([{"iteration": 1, "loss": None}]) == ""
    style = ElementTree.fromstring(picture).findtext(f"{SVG}style") or ""
    used = {name for names in re.findall(r'class="([^"]*)"', picture) for name in names.split()}
    without = {"chart", "series", "line", "dots"}
    assert {name for name in used if f".{name}{{" not in style} == without, "the picture has its own colours"
    assert [text.text for text in ElementTree.fromstring(picture).iter(f"{SVG}text")][-2:] == ["training", "validation"]


def test_a_plot_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write({"iteration": 1, "loss": 1.0})
    file.close()
    (tmp_path / "loss.svg").mkdir()
    said = StringIO()
    rank = Rank(
        rank=0, world_size=1, output_dir=tmp_path, device="CPU process", unit="process",
        screen=Screen(said, speaks=True), startup=Startup({}),
    )  # fmt: skip
    LossPlot(rank).end(End(how="finished", cause=None, iteration=1))
    assert said.getvalue().startswith("loss.svg is not written: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.svg", "metrics.jsonl"]
