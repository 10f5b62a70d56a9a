"""What an export adds to a finetuned model's folder, so that others talk to it as it was trained."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "chat-template-added": "{file} is added: the conversations were written with Llama 3.1's template, as the "
    "tokenizer has none",
    "chat-end-added": "{file}: {token}, which ends a trained turn, ends an answer",
    "chat-files-not-added": "{folder} gets no chat template and no other end of an answer: {why}",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "chat-template-added": "已添加 {file}：分词器没有对话模板，训练用的是 Llama 3.1 的模板",
    "chat-end-added": "{file}：{token} 是训练中每轮的结尾，现在也会结束回答",
    "chat-files-not-added": "{folder} 没有添加对话模板和回答结束符：{why}",
}
