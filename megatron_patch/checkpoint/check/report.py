"""What the layer check found: a table for the terminal, JSON for machines, a picture of the error over depth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.check.compare import ACCUMULATED, PARTS, SAME, PartComparison
from megatron_patch.common.files import write_json
from megatron_patch.common.messages import Message, localized, named, say
from megatron_patch.common.terminal import width_of

JSON_FILE, PNG_FILE = "check.json", "check.png"


@dataclass(kw_only=True)
class CheckReport:
    """The rows and what they were measured on."""

    rows: list[PartComparison]
    about: dict[str, Any] = field(default_factory=dict)
    """Folders, precision, TP, PP, tokens."""
    title: str = "Megatron against Hugging Face"
    """Of the picture."""
    configuration: list[Message] = field(default_factory=list)
    """Fields of the architecture in which the two sides' `config.json` differ; each fails the check."""

    @property
    def passed(self) -> bool:
        """Nothing differs beyond its tolerance."""
        return not self.configuration and all(row.passed for row in self.rows)

    @property
    def first_failure(self) -> PartComparison | None:
        """The first part, in the order of the computation, that is wrong although its input was right."""
        bad = [row for row in self.rows if not row.passed]
        return next((row for row in bad if row.mode == SAME), bad[0] if bad else None)

    def show(self, folder: Path) -> bool:
        """Print the table and the verdict, write check.json and check.png; whether it passed."""
        print(self.table())
        for file in self.write(folder):
            say("wrote", file=file)
        print("\n".join(message.localized() for message in self.verdict()), flush=True)
        return self.passed

    def verdict(self) -> list[Message]:
        """That it passed, or a line for each thing that is wrong."""
        if self.passed:
            return [Message("check-passed")]
        lines = [Message("check-failed-configuration", what=what) for what in self.configuration]
        first = self.first_failure
        if first is not None:
            where = {"place": _place(first), "part": first.part, "precision": first.precision}
            numbers = {"error": f"{first.relative_l2:.2e}", "tolerance": f"{first.tolerance:.2e}"}
            lines.append(Message("check-failed", **where, **numbers))
        return lines

    def table(self) -> str:
        """Of each layer the part that came nearest to its tolerance, and every part that went beyond it."""
        lines = [_columns("", f" {localized('check-part')}", *map(localized, HEAD))]
        for precision in dict.fromkeys(row.precision for row in self.rows):
            lines.append(localized("check-computed", precision=precision, parts=len(PARTS), file=JSON_FILE))
            places: dict[tuple[int | None, bool], list[PartComparison]] = {}
            for row in self.rows:
                if row.precision == precision:
                    places.setdefault((row.layer, row.part in PARTS[-2:]), []).append(row)
            for rows in places.values():
                bad = [row for row in rows if not row.passed]
                lines += [_line(row) for row in bad or [max(rows, key=lambda r: r.relative_l2 / (r.tolerance or 1.0))]]
        return "\n".join(lines)

    def write(self, folder: Path) -> list[Path]:
        """Write check.json and check.png."""
        first = self.first_failure
        content = {
            "passed": self.passed,
            **self.about,
            "configuration": list(map(str, self.configuration)),
            "first_failure": asdict(first) if first else None,
            "rows": [{**asdict(row), "passed": row.passed} for row in self.rows],
        }
        write_json(folder / JSON_FILE, _without_nan(content), indent=1)
        self._draw(folder / PNG_FILE)
        return [folder / JSON_FILE, folder / PNG_FILE]

    def _draw(self, file: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        precisions = list(dict.fromkeys(row.precision for row in self.rows))
        figure, grid = pyplot.subplots(1, len(precisions), figsize=(8 * len(precisions), 5), squeeze=False)
        for axes, precision in zip(grid[0], precisions, strict=True):
            rows = [row for row in self.rows if row.precision == precision]
            layers = [row.layer for row in rows if row.layer is not None]
            last = 1 + max(layers, default=0)
            for part in PARTS:
                _draw_part(axes, [row for row in rows if row.part == part], part, last)
            axes.set(yscale="log", xlabel="layer", ylabel="relative L2 error", title=f"computed in {precision}")
            axes.legend(fontsize=7, ncols=3)
        outcome = "passed" if self.passed else "FAILED"
        figure.suptitle(f"{self.title}: {outcome}\nsolid: same input; dotted: accumulated")
        figure.tight_layout()
        figure.savefig(file, dpi=110)
        pyplot.close(figure)


def _draw_part(axes: Any, rows: list[PartComparison], part: str, last: int) -> None:
    color = f"C{PARTS.index(part) % 10}"
    for mode, style in ((SAME, "o-"), (ACCUMULATED, ".:")):
        chosen = [row for row in rows if row.mode == mode]
        xs = [row.layer if row.layer is not None else (-1 if part == "embedding" else last) for row in chosen]
        ys = [max(row.relative_l2, 1e-12) if math.isfinite(row.relative_l2) else 1e3 for row in chosen]
        axes.plot(xs, ys, style, color=color, markersize=4, label=part if mode == SAME else None)
    same = [row for row in rows if row.mode == SAME]
    xs = [row.layer if row.layer is not None else (-1 if part == "embedding" else last) for row in same]
    axes.plot(xs, [max(row.tolerance, 1e-12) for row in same], "_", color=color, alpha=0.5)


HEAD = ("check-mode", "check-max", "check-l2", "check-tolerance", "check-cosine")
WIDTHS = (-9, 14, 11, -9, -9, -9, -10)
"""In columns of a terminal; negative: ranged right."""
MODES = {SAME: "check-same", ACCUMULATED: "check-accumulated"}


def _line(row: PartComparison) -> str:
    numbers = (f"{row.max_abs:.2e}", f"{row.relative_l2:.2e}", f"{row.tolerance:.2e}", f"{row.cosine:.7f}")
    line = _columns(_place(row).localized(), f" {row.part}", localized(MODES[row.mode]), *numbers)
    return line if row.passed else f"{line}  {localized('check-beyond')}"


def _columns(*words: str) -> str:
    padded = []
    for word, width in zip(words, WIDTHS, strict=True):
        blank = " " * (abs(width) - width_of(word))
        padded.append(blank + word if width < 0 else word + blank)
    return " ".join(padded)


def _place(row: PartComparison) -> Message:
    return named("model") if row.layer is None else Message("check-at-layer", layer=row.layer)


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: a string says it."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
