"""What Python's JSON reader and the kernel say, as names (`common.messages.named`)."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "name:Expecting value": "Expecting value",
    "name:Expecting property name enclosed in double quotes": "Expecting property name enclosed in double quotes",
    "name:Expecting ',' delimiter": "Expecting ',' delimiter",
    "name:Expecting ':' delimiter": "Expecting ':' delimiter",
    "name:Extra data": "Extra data",
    "name:Unterminated string starting at": "Unterminated string starting at",
    "name:Invalid control character at": "Invalid control character at",
    "name:Invalid \\escape": "Invalid \\escape",
    "name:Invalid \\uXXXX escape": "Invalid \\uXXXX escape",
    "name:No space left on device": "No space left on device",
    "name:Disk quota exceeded": "Disk quota exceeded",
    "name:File too large": "File too large",
    "name:Read-only file system": "Read-only file system",
    "name:Permission denied": "Permission denied",
    "name:Operation not permitted": "Operation not permitted",
    "name:Input/output error": "Input/output error",
    "name:Stale file handle": "Stale file handle",
    "name:File name too long": "File name too long",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "name:Expecting value": "此处应有一个值",
    "name:Expecting property name enclosed in double quotes": "此处应有双引号括起的键",
    "name:Expecting ',' delimiter": "此处应有逗号",
    "name:Expecting ':' delimiter": "此处应有冒号",
    "name:Extra data": "其后有多余的内容",
    "name:Unterminated string starting at": "字符串没有结束，它开始于此",
    "name:Invalid control character at": "此处有控制字符",
    "name:Invalid \\escape": "无效的转义",
    "name:Invalid \\uXXXX escape": "无效的 \\uXXXX 转义",
    "name:No space left on device": "磁盘空间不足",
    "name:Disk quota exceeded": "超出磁盘配额",
    "name:File too large": "文件过大",
    "name:Read-only file system": "文件系统是只读的",
    "name:Permission denied": "权限不足",
    "name:Operation not permitted": "操作不被允许",
    "name:Input/output error": "输入输出错误",
    "name:Stale file handle": "文件句柄已失效",
    "name:File name too long": "文件名过长",
}
