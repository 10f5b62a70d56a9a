"""Warnings collected on the way: the plan's, what the metrics show, and the lines of the ranks' logs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_patch.charts.text import Text, Words, both
from megatron_patch.common.messages import Message
from megatron_patch.report.collect import Run

MOST_BYTES = 64 << 20
"""Of a run's logs that are read."""
_SIGN = re.compile(r"\b(WARNING|WARN|ERROR|CRITICAL)\b|\w*(Warning|Error): ")
_NO_NEWS = "gpuGetDeviceCount failed"
"""torch's profiler, on a machine without GPUs."""
_CHANGING = re.compile(r"\d+|0x[0-9a-f]+")
_PREFIX = re.compile(r"^(\[?rank\s?\d+\]?:?\s*)?(/\S+?\.py:\d+:\s*)?")


@dataclass(kw_only=True)
class Remark:
    """One thing that a reader should know."""

    kind: str
    """bad, warning or note."""
    words: Words
    where: str
    count: int = 1


KINDS = {
    "skip": Text("step skipped", "跳过一步"),
    "spike": Text("spike", "尖峰"),
    "rollback": Text("rollback", "回滚"),
    "restart": Text("restart", "重新启动"),
    "gave-up": Text("not started again", "不再重新启动"),
    "fallback": Text("damaged checkpoint", "检查点损坏"),
    "hang": Text("hang", "卡住"),
    "slow": Text("slow rank", "慢进程"),
}
BAD = ("spike", "gave-up", "hang")


def happened(run: Run) -> Iterator[Remark]:
    """What is in events.jsonl, in its order."""
    for event in run.events:
        kind = KINDS[event.kind]
        where = f"{run.name}, {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event.at))}"
        said = both(event.said)
        words = Text(f"{kind.en}: {said.en}", f"{kind.zh}：{said.zh}")
        yield Remark(kind="bad" if event.kind in BAD else "warning", words=words, where=where)


def remarks(run: Run) -> Iterator[Remark]:
    """What the plan said and what the metrics show; worst first."""
    lost = [step.iteration for step in run.steps if step.loss is None and step.refusal is None]
    skipped = [step.iteration for step in run.steps if step.skipped and step.refusal is None]
    if lost:
        words = both(Message("remark-lost", count=len(lost), first=lost[0]))
        yield Remark(kind="bad", words=words, where="metrics.jsonl")
    if skipped:
        words = both(Message("remark-skipped", count=len(skipped), last=skipped[-1]))
        yield Remark(kind="warning", words=words, where="metrics.jsonl")
    for problem in run.problems:
        yield Remark(kind="warning", words=both(problem), where=run.name)
    if run.plan:
        yield from (Remark(kind="warning", words=line, where="plan.json") for line in run.plan.told("warnings"))
        yield from (Remark(kind="note", words=line, where="plan.json") for line in run.plan.told("notes"))
    if len({step.iteration for step in run.steps}) < len(run.steps):
        yield Remark(kind="warning", words=both(Message("remark-twice")), where="metrics.jsonl")


def counted(said: Iterable[Remark]) -> list[Remark]:
    """Each remark once, with its count; several runs often say the same."""
    found: dict[tuple[Words, str], Remark] = {}
    for one in said:
        found.setdefault((one.words, one.where), replace(one, count=0)).count += one.count
    return list(found.values())


def log_remarks(run: Run) -> list[Remark]:
    """Warnings and errors of the ranks' logs; lines that differ in numbers alone are counted as one."""
    found: dict[str, Remark] = {}
    left = MOST_BYTES
    for file in sorted((run.folder / "logs").glob("*.log")):
        if not file.is_file():
            continue
        try:
            size = file.stat().st_size
            if size <= left:
                left -= size
                _scan(file, found)
                continue
            words = both(Message("remark-large-logs", size=MOST_BYTES >> 20))
        except OSError as error:
            words = both(Message("remark-unread", error=error))
        found[str(file)] = Remark(kind="warning", words=words, where=f"logs/{file.name}")
    return sorted(found.values(), key=lambda remark: (remark.kind != "bad", -remark.count))


def _scan(file: Path, found: dict[str, Remark]) -> None:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            sign = _SIGN.search(line)
            if not sign or _NO_NEWS in line:
                continue
            words = _PREFIX.sub("", line.strip())[:400]
            key = _CHANGING.sub("#", words)
            if key in found:
                found[key].count += 1
            else:
                bad = "error" in sign.group().lower() or sign.group() == "CRITICAL"
                kind, where = "bad" if bad else "warning", f"logs/{file.name}:{number}"
                found[key] = Remark(kind=kind, words=words, where=where)
