"""What argparse says by itself: its own English, as `common/command_line.py` looks it up."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "argparse:usage": "usage: ",
    "argparse:error": "%(prog)s: error: %(message)s\n",
    "argparse:argument": "argument %(argument_name)s: %(message)s",
    "argparse:positional": "positional arguments",
    "argparse:options": "options",
    "argparse:help": "show this help message and exit",
    "argparse:version": "show program's version number and exit",
    "argparse:required": "the following arguments are required: %s",
    "argparse:one-of": "one of the arguments %s is required",
    "argparse:not-with": "not allowed with argument %s",
    "argparse:one": "expected one argument",
    "argparse:at-most-one": "expected at most one argument",
    "argparse:at-least-one": "expected at least one argument",
    "argparse:count-one": "expected %s argument",
    "argparse:count": "expected %s arguments",
    "argparse:explicit": "ignored explicit argument %r",
    "argparse:value": "invalid %(type)s value: %(value)r",
    "argparse:choice": "invalid choice: %(value)r (choose from %(choices)s)",
    "argparse:unknown": "unrecognized arguments: %s",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "argparse:usage": "用法：",
    "argparse:error": "%(prog)s：错误：%(message)s\n",
    "argparse:argument": "参数 %(argument_name)s：%(message)s",
    "argparse:positional": "位置参数",
    "argparse:options": "选项",
    "argparse:help": "显示本帮助",
    "argparse:version": "显示版本号",
    "argparse:required": "缺少必需的参数：%s",
    "argparse:one-of": "需要给出其中一个参数：%s",
    "argparse:not-with": "不能与参数 %s 同时使用",
    "argparse:one": "后面要有一个值",
    "argparse:at-most-one": "后面最多一个值",
    "argparse:at-least-one": "后面至少要有一个值",
    "argparse:count-one": "后面要有 %s 个值",
    "argparse:count": "后面要有 %s 个值",
    "argparse:explicit": "不接受值 %r",
    "argparse:value": "不是有效的 %(type)s 值：%(value)r",
    "argparse:choice": "无效的选择：%(value)r（可选：%(choices)s）",
    "argparse:unknown": "无法识别的参数：%s",
}
