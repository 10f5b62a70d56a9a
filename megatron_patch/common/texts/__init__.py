"""The catalogue of texts: one file a subject, each with its English and its Chinese, by code.

`common/messages.py` describes the placeholders. A pair is an error: what is wrong, and what would be right. Where the
place that finds an error says what would be right (`expected`), the text stands alone.
"""

from __future__ import annotations

from types import ModuleType

from megatron_patch.common.texts import (
    backend,
    chat,
    checkpoint,
    cluster,
    command_lines,
    commands,
    convert,
    data,
    datasets,
    doctor,
    endings,
    evaluation,
    exports,
    files,
    flags,
    general,
    generate,
    inputs,
    layout,
    libraries,
    machines,
    model,
    names,
    nemo,
    notes,
    output,
    peft,
    plan,
    planner,
    rows,
    schedules,
    settings,
    tokenizers,
    tool_help,
    training,
    values,
)

SUBJECTS: tuple[ModuleType, ...] = (
    general,
    values,
    layout,
    inputs,
    output,
    settings,
    schedules,
    cluster,
    notes,
    plan,
    nemo,
    data,
    rows,
    tokenizers,
    datasets,
    chat,
    generate,
    evaluation,
    tool_help,
    training,
    endings,
    planner,
    command_lines,
    commands,
    doctor,
    machines,
    model,
    checkpoint,
    convert,
    peft,
    backend,
    files,
    libraries,
    exports,
    flags,
    names,
)
ENGLISH: dict[str, str | tuple[str, str]] = {
    code: text for subject in SUBJECTS for code, text in subject.ENGLISH.items()
}
CHINESE: dict[str, str | tuple[str, str]] = {
    code: text for subject in SUBJECTS for code, text in subject.CHINESE.items()
}
LANGUAGES = {"en": ENGLISH, "zh": CHINESE}
"""By the value of MP_LANG."""
