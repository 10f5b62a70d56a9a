"""How errors, lists and names are put together."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "comma": ", ",
    "semicolon": "; ",
    "either": "{first} or {second}",
    "position": "position {number} {name}",
    "numbered": "{name} (position {number})",
    "uncoded": "{text}",
    "joined": "{first}{second}",
    "error": "error: {text}",
    "at": "{path}: {what}",
    "problem-count": "{count:problem|problems}; nothing was started.",
    "problem-line": "{where}: {what}: {shown}; valid: {valid}",
    "problem-names": "{first} with {second}",
    "problem-value": "is {value}",
    "problem-value-of": "{name} is {value}",
    "setting": "{name:={value}}",
    "not-set": "not set",
    "see-positions": "`--help` shows all 25 positions.",
    "see-flags": "`--help` shows all flags.",
    "values-missing": "{given} of {wanted} values are given; missing: {missing}",
    "values-missing-and-more": "{given} of {wanted} values are given; missing: {missing}, and what follows it",
    "values-left-over": "more than {wanted} values are given; left over: {left}; "
    "valid after them: --dry-run, --emit k8s",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "comma": "、",
    "semicolon": "；",
    "either": "{first} 或 {second}",
    "position": "第 {number} 个值 {name}",
    "numbered": "{name}（第 {number} 个值）",
    "uncoded": "{text}",
    "joined": "{first}{second}",
    "error": "错误：{text}",
    "at": "{path}：{what}",
    "problem-count": "{count} 个问题；没有启动任何任务。",
    "problem-line": "{where}：{what}：{shown}；可用：{valid}",
    "problem-names": "{first} 与 {second}",
    "problem-value": "现为 {value}",
    "problem-value-of": "{name} 为 {value}",
    "setting": "{name:={value}}",
    "not-set": "未设置",
    "see-positions": "`--help` 列出全部 25 个值。",
    "see-flags": "`--help` 列出全部参数。",
    "values-missing": "需要 {wanted} 个值，只给了 {given} 个；缺少：{missing}",
    "values-missing-and-more": "需要 {wanted} 个值，只给了 {given} 个；缺少：{missing}，以及其后的值",
    "values-left-over": "给出的值多于 {wanted} 个；多余：{left}；其后只能是：--dry-run、--emit k8s",
}
