"""Chat and generate."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "generate-not-loaded": "{folder} cannot be loaded on {device}: {error}",
    "generate-refused": "the conversation cannot be asked: {error}",
    "generate-nan": "the model gives NaN as a logit: its weights are damaged",
    "generate-memory": "does not fit the memory: {error}",
    "generate-empty-prompt": "the prompt has no tokens",
    "generate-token-beyond": "{folder}: its tokenizer gives the id {id}, its embedding has {rows:row|rows}",
    "generate-too-long": "{tokens:token|tokens} fill the model's {positions} positions: a shorter prompt, or /reset",
    "generate-no-run": "--compare: {path} is not in a run's folder: --before names the other model",
    "generate-from-nothing": "--compare: {path} was trained from no checkpoint: --before names another model",
    "generate-start-gone": "--compare: {path} started from {start}, which is not a folder here: --before names it",
    "generate-no-prompt": "nothing to go on with: --prompt TEXT or --prompts FILE",
    "generate-prompts": "--prompts: {path} cannot be read: {error}",
    "generate-system": "--system needs --chat: a text that is continued has no system prompt",
    "generate-length": "broken off after {tokens:token|tokens}: --max-new-tokens",
    "generate-positions": "broken off after {tokens:token|tokens}: the model has no more positions",
    "generate-stopped": "stopped after {tokens:token|tokens}",
    "chat-help": "/reset: new conversation; /system TEXT; /quit; Ctrl-C ends an answer",
    "chat-new": "new conversation",
    "chat-commands": "{word} is not a command; valid: /reset, /system TEXT, /quit",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "generate-not-loaded": "{folder} 无法加载到 {device}：{error}",
    "generate-refused": "无法提问这段对话：{error}",
    "generate-nan": "模型给出的 logit 是 NaN：权重已损坏",
    "generate-memory": "内存放不下：{error}",
    "generate-empty-prompt": "提示没有词元",
    "generate-token-beyond": "{folder}：分词器给出 id {id}，而词嵌入只有 {rows} 行",
    "generate-too-long": "{tokens} 个词元占满了模型的 {positions} 个位置；请缩短提示，在对话中用 /reset",
    "generate-no-run": "--compare：{path} 不在训练输出文件夹中：用 --before 指定另一个模型",
    "generate-from-nothing": "--compare：{path} 的训练不是从检查点开始的：用 --before 指定另一个模型",
    "generate-start-gone": "--compare：{path} 从 {start} 开始，这里没有这个文件夹：用 --before 指定",
    "generate-no-prompt": "没有提示：--prompt TEXT 或 --prompts FILE",
    "generate-prompts": "--prompts：无法读取 {path}：{error}",
    "generate-system": "--system 需要 --chat：续写文本没有系统提示",
    "generate-length": "{tokens} 个词元后截断：--max-new-tokens",
    "generate-positions": "{tokens} 个词元后截断：模型没有更多位置",
    "generate-stopped": "{tokens} 个词元后停止",
    "chat-help": "/reset：新对话；/system TEXT；/quit；Ctrl-C 结束当前回答",
    "chat-new": "新对话",
    "chat-commands": "{word} 不是命令；可用：/reset、/system TEXT、/quit",
}
