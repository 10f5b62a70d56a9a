"""Data before training."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "left-out-hidden": "{files:hidden file|hidden files} in {folder} {files:?is|are} not read: {names}",
    "left-out-other": "{files:file|files} in {folder} {files:?is|are} not read, by the name not data: {names}",
    "download-there": "there already: {files}; --overwrite replaces them",
    "download-hub": "{repository} cannot be read from the hub: {error}; --input takes a local copy",
    "download-unreadable": "cannot read {source}: {error}",
    "download-columns": "no column {missing}; there are: {found}",
    "download-no-file": "--input: {source} is not, and does not hold, a file that ends in {suffixes}",
    "download-several-kinds": "--input: {source} holds files of several kinds; give one of them",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "left-out-hidden": "{folder} 中有 {files} 个隐藏文件不会被读取：{names}",
    "left-out-other": "{folder} 中有 {files} 个文件不会被读取，从文件名看不是数据：{names}",
    "download-there": "已经存在：{files}；--overwrite 会替换它们",
    "download-hub": "无法从 hub 读取 {repository}：{error}；--input 可以使用本地副本",
    "download-unreadable": "无法读取 {source}：{error}",
    "download-columns": "没有列 {missing}；现有的列：{found}",
    "download-no-file": "--input：{source} 不是（也不含）后缀为 {suffixes} 的文件",
    "download-several-kinds": "--input：{source} 中有多种文件；请给出其中一个",
}
