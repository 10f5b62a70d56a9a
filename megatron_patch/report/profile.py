"""Where the time of the iterations went that MP_PROFILE asked for: a bar and a table for each recorded rank."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.charts.bars import stacked_bar
from megatron_patch.charts.svg import COLORS
from megatron_patch.charts.text import Text, Words, both
from megatron_patch.common.messages import Message, named
from megatron_patch.report.collect import Run
from megatron_patch.report.records import ProfileFile

SHOWN = len(COLORS) - 1
"""Kinds that have a colour of their own in the bar."""


@dataclass(kw_only=True)
class ProfilePart:
    """One recorded rank."""

    title: Words
    keys: list[Words]
    """Names and shares of the segments, in their order."""
    bar: str
    kinds: list[tuple[Words, str, str, str]]
    """Kind, share, milliseconds and calls of an iteration."""
    kernels: list[tuple[str, Words, str, str]]
    """The longest: name, kind, milliseconds and calls of an iteration."""
    remark: Words


def parts(run: Run) -> list[ProfilePart]:
    """By rank."""
    return [_part(run, profile) for profile in sorted(run.profiles, key=lambda one: one.rank)]


def _part(run: Run, profile: ProfileFile) -> ProfilePart:
    first, last = profile.iterations
    steps, wall = profile.steps or max(1, last - first + 1), max(profile.wall_s, 1e-9)
    shares = [(both(named(one.kind)), one.seconds / wall) for one in profile.kinds]
    largest = sorted(shares, key=lambda one: -one[1])
    segments = largest[:SHOWN]
    if rest := sum(share for _, share in largest[SHOWN:]):
        segments.append((Text("the rest", "其余"), rest))
    exposed = profile.exposed_communication_s
    remark = Message("profile-trace", trace=profile.trace)
    if exposed is not None:
        remark = Message("profile-alone", share=exposed / wall, remark=remark)
    return ProfilePart(
        title=both(
            Message("profile-title", name=run.name, rank=profile.rank, which=_which(profile), ms=1e3 * wall / steps)
        ),
        keys=[_with_share(name, share) for name, share in segments],
        bar=stacked_bar(segments, [], Text("time", "时间")),
        kinds=[
            (name, f"{share:.1%}", f"{1e3 * one.seconds / steps:.2f}", f"{one.calls / steps:,.0f}")
            for (name, share), one in zip(shares, profile.kinds, strict=True)
        ],
        kernels=[
            (one.name, both(named(one.kind)), f"{1e3 * one.seconds / steps:.2f}", f"{one.calls / steps:,.0f}")
            for one in profile.kernels
        ],
        remark=both(remark),
    )


def _which(profile: ProfileFile) -> list[Message]:
    """The iterations, and what was different about some."""
    first, last = profile.iterations
    which = Message("profile-iterations", first=first, last=last)
    passed = last - first + 1 - (profile.steps or last - first + 1)
    if passed > 0:
        which = Message("profile-not-counted", which=which, count=passed)
    return [which, *([Message("profile-skipped", skipped=profile.skipped)] if profile.skipped else [])]


def _with_share(name: Words, share: float) -> Words:
    if isinstance(name, str):
        return f"{name} {share:.1%}"
    return Text(f"{name.en} {share:.1%}", f"{name.zh} {share:.1%}")
