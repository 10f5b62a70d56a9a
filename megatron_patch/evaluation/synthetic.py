"""Make small data sets in CMMLU's and C-Eval's layouts: every subject, invented questions, always the same.

    python -m megatron_patch.evaluation.synthetic FOLDER [--questions 3 | published]

The questions mean nothing and no score on them does: they are for tests, the quickstart and speed. Each file
also holds what trips readers of CSV: quotes, commas, numbers as options, options that read `None` or `NA`.
"""

from __future__ import annotations

import csv
import os
import random
import sys
import zlib
from pathlib import Path

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UsageError, print_error
from megatron_patch.common.messages import localized, say
from megatron_patch.common.terminal import guard
from megatron_patch.evaluation.benchmarks import BENCHMARKS, CEVAL, CMMLU, Benchmark, Subject

MARKER = "SYNTHETIC.txt"
"""A file beside the data that says what it is; results repeat it."""
FOLDERS = {CMMLU.name: "cmmlu", CEVAL.name: "ceval"}
_WORDS = """
    结构 原理 方法 条件 过程 现象 理论 系统 数据 模型 分析 研究 教育 历史 社会 经济 法律 文化 科学 技术 发展 变化
    影响 因素 作用 特点 功能 原则 标准 关系 问题 结果 原因 目的 内容 形式 范围 对象 阶段 类型 温度 压力 速度 能量
    细胞 组织 器官 物质 元素 反应 函数 概率 矩阵 向量 网络 协议 程序 算法 存储 管理 合同 责任 权利 义务 政策 制度
""".split()  # noqa: SIM905
_STEMS = (
    "下列关于{0}的{1}，说法正确的是",
    "在{0}中，{1}主要取决于",
    "以下哪一项不属于{0}的{1}？",
    "根据{0}的{1}，{2}与{3}之间的{4}是（ ）",
    "某研究者在考察{0}时发现，随着{1}的提高，{2}先增后减，而{3}保持不变。由此可以推断，决定{4}的{5}最可能是",
)
_AWKWARD = (
    ("None", "NA", "null", "0"),
    ("1", "2", "3", "4"),
    ("1.50", "007", "-3", "1e5"),
    ("甲,乙", '"甲"', "A", " 丙 "),
)


def make(folder: Path, questions: int | None = 3) -> dict[str, Path]:
    """Write both data sets; the same bytes each time.

    Args:
        questions: rows in each file of the test and validation splits; None takes the published numbers, which
            makes 11582 and 1346 scored questions.
    Returns:
        The folder of each benchmark, by lm_eval's group name.
    """
    for benchmark in BENCHMARKS.values():
        for subject in benchmark.subjects:
            for split, published in subject.rows.items():
                count = published if questions is None or split == "dev" else questions
                _write_file(folder / FOLDERS[benchmark.name], benchmark, subject, split, count)
        (folder / FOLDERS[benchmark.name] / MARKER).write_text(
            f"Invented questions in the layout of {benchmark.title}, made by megatron_patch.evaluation.synthetic.\n"
        )
    return {name: folder / below for name, below in FOLDERS.items()}


def _write_file(folder: Path, benchmark: Benchmark, subject: Subject, split: str, count: int) -> None:
    file = folder / benchmark.file(subject.name, split)
    file.parent.mkdir(parents=True, exist_ok=True)
    draw = random.Random(zlib.crc32(f"{benchmark.name}/{subject.name}/{split}".encode()))
    rows = [_question(draw, subject, number) for number in range(count)]
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        if benchmark is CMMLU:  # pandas' index without a name comes first
            writer.writerow(["", *benchmark.columns])
            writer.writerows([number, *row] for number, row in enumerate(rows))
        else:  # examples are explained, test answers are kept by the authors
            last = {"dev": ["answer", "explanation"], "val": ["answer"], "test": []}[split]
            writer.writerow(["id", *benchmark.columns[:-1], *last])
            writer.writerows([n, *row[:-1], *[row[-1], "见教材。"][: len(last)]] for n, row in enumerate(rows))


def _question(draw: random.Random, subject: Subject, number: int) -> list[str]:
    """Question, four options, the answer's letter."""
    words = draw.sample(_WORDS, 5)
    stem = draw.choice(_STEMS).format(subject.title_zh, *words)
    if draw.random() < 0.3:  # some published questions open with a paragraph
        stem = "，".join("".join(draw.sample(_WORDS, 4)) for _ in range(draw.randint(2, 8))) + "。" + stem
    if number == 1:
        options = list(draw.choice(_AWKWARD))
    else:
        options = ["".join(draw.sample(_WORDS, draw.randint(1, 6))) for _ in range(4)]
    return [stem, *options, draw.choice("ABCD")]


def main() -> None:
    """Command line."""
    parser = ArgumentParser(
        prog="make_synthetic_data.sh",
        description=localized("synthetic-about"),
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=localized("synthetic-help-folder"))
    parser.add_argument("--questions", default="3", help=localized("synthetic-help-questions"))
    args = parser.parse_args()
    if args.questions != "published" and not (args.questions.isdecimal() and int(args.questions) > 0):
        print_error(UsageError.at("--questions", "synthetic-questions", found=args.questions), os.environ)
        sys.exit(2)
    folders = make(args.folder, None if args.questions == "published" else int(args.questions))
    for name, folder in folders.items():
        say("synthetic-written", folder=folder, subjects=len(BENCHMARKS[name].subjects), name=name)


if __name__ == "__main__":
    guard(bars=True)
    main()
