"""Where the time of the iterations went that MP_PROFILE asked for: a bar and a table for each recorded rank."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.charts.bars import stacked_bar
from megatron_patch.charts.svg import COLORS
from megatron_patch.charts.text import Text, Words
from megatron_patch.common.kernel_kinds import IDLE
from megatron_patch.report.collect import Run
from megatron_patch.report.records import Profile

KINDS: dict[str, Words] = {
    "communication": Text("communication", "通信"),
    "memory copies": Text("memory copies", "内存复制"),
    "matmuls": Text("matmuls", "矩阵乘法"),
    "attention": Text("attention", "注意力"),
    "casts to fp8": Text("casts to fp8", "转换为 fp8"),
    "norms": Text("norms", "归一化"),
    "RoPE, and copies around it": Text("RoPE, and copies around it", "RoPE 及其前后的复制"),
    "residuals": Text("residuals", "残差"),
    "optimizer": Text("optimizer", "优化器"),
    "cross-entropy": Text("cross-entropy", "交叉熵"),
    "elementwise": Text("elementwise", "逐元素"),
    "other": Text("other", "其他"),
    IDLE: Text("idle", "空闲"),
}
"""Names of common/kernel_kinds.py that are not the same in both languages."""
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


def _part(run: Run, profile: Profile) -> ProfilePart:
    first, last = profile.iterations
    steps, wall = profile.steps or max(1, last - first + 1), max(profile.wall_s, 1e-9)
    shares = [(KINDS.get(one.kind, one.kind), one.seconds / wall) for one in profile.kinds]
    largest = sorted(shares, key=lambda one: -one[1])
    segments = largest[:SHOWN]
    if rest := sum(share for _, share in largest[SHOWN:]):
        segments.append((Text("the rest", "其余"), rest))
    exposed = profile.exposed_communication_s
    remark = Text(f"trace: profile/{profile.trace}", f"跟踪文件：profile/{profile.trace}")
    if exposed is not None:
        alone = f"{exposed / wall:.1%}"
        remark = Text(
            f"Communication while nothing else ran: {alone}. {remark.en}",
            f"没有其他内核同时运行的通信：{alone}。{remark.zh}",
        )
    which = _which(profile)
    return ProfilePart(
        title=Text(
            f"{run.name}: rank {profile.rank}, {which.en}, {1e3 * wall / steps:.1f} ms each",
            f"{run.name}：rank {profile.rank}，{which.zh}，每次 {1e3 * wall / steps:.1f} 毫秒",
        ),
        keys=[_with_share(name, share) for name, share in segments],
        bar=stacked_bar(segments, [], Text("time", "时间")),
        kinds=[
            (name, f"{share:.1%}", f"{1e3 * one.seconds / steps:.2f}", f"{one.calls / steps:,.0f}")
            for (name, share), one in zip(shares, profile.kinds, strict=True)
        ],
        kernels=[
            (one.name, KINDS.get(one.kind, one.kind), f"{1e3 * one.seconds / steps:.2f}", f"{one.calls / steps:,.0f}")
            for one in profile.kernels
        ],
        remark=remark,
    )


def _which(profile: Profile) -> Text:
    """The iterations, and what was different about some."""
    first, last = profile.iterations
    words = Text(f"iterations {first} to {last}", f"第 {first} 到 {last} 次迭代")
    passed = last - first + 1 - (profile.steps or last - first + 1)
    if passed > 0:
        words = Text(f"{words.en} without {passed} passed over", f"{words.zh}（其中 {passed} 次被跳过，未计算）")
    if profile.skipped:
        numbers = ", ".join(map(str, profile.skipped))
        words = Text(f"{words.en}, {numbers} skipped (no optimizer step)", f"{words.zh}，其中 {numbers} 未更新权重")
    return words


def _with_share(name: Words, share: float) -> Words:
    if isinstance(name, str):
        return f"{name} {share:.1%}"
    return Text(f"{name.en} {share:.1%}", f"{name.zh} {share:.1%}")
