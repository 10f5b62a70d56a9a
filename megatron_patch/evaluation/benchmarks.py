"""CMMLU and C-Eval as their authors publish them: subjects, files, columns, row counts. Facts only, no torch.

Subjects and their order are those of lm_eval 0.4.13 (a test compares them). Row counts: C-Eval from the dataset
card of ceval/ceval-exam (1346 validation and 12342 test questions, 5 examples in each subject), CMMLU from the
data statistics of evalscope's `cmmlu` page (11582 test questions, 5 examples in each subject). Categories:
`src/categories.py` of haonan-li/CMMLU, `subject_mapping.json` of hkust-nlp/ceval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_patch.common.messages import Message, at


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject of a benchmark."""

    name: str
    """As in the file names and in lm_eval's task names."""
    title_zh: str
    category: str
    """STEM, Humanities, Social Science or Other."""
    rows: dict[str, int]
    """Published number of questions in each split."""

    @property
    def title(self) -> str:
        """English title."""
        return self.name.replace("_", " ").capitalize()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A set of multiple-choice questions in CSV files, one per subject and split."""

    name: str
    """The task group of lm_eval."""
    title: str
    task_prefix: str
    """lm_eval's task of a subject is this and the subject's name."""
    hub_path: str
    """`dataset_path` of lm_eval's task: also where the unmodified lm_eval looks below its working directory."""
    usual_names: tuple[str, ...]
    """What people call the folder or the archive."""
    scored_split: str
    """The split whose questions count; examples for few-shot prompts come from `dev`."""
    splits: tuple[str, ...]
    """The splits that lm_eval reads; each is a folder."""
    file_pattern: str
    """File name inside a split's folder, with {subject} and {split}."""
    columns: tuple[str, ...]
    """What lm_eval's prompts read, answer last; others in the files are not read."""
    license: str
    homepage: str
    subjects: tuple[Subject, ...]

    def file(self, subject: str, split: str) -> str:
        """Path of a CSV file below the benchmark's folder."""
        return f"{split}/{self.file_pattern.format(subject=subject, split=split)}"

    def subject(self, name: str) -> Subject:
        """The subject of that name; KeyError if there is none."""
        return {subject.name: subject for subject in self.subjects}[name]

    def tasks(self) -> list[str]:
        """lm_eval's task names, in its order."""
        return [self.task_prefix + subject.name for subject in self.subjects]


_CMMLU = [
    ("agronomy", "农学", "Other", 169),
    ("anatomy", "解剖学", "STEM", 148),
    ("ancient_chinese", "古汉语", "Social Science", 164),
    ("arts", "艺术学", "Humanities", 160),
    ("astronomy", "天文学", "STEM", 165),
    ("business_ethics", "商业伦理", "Social Science", 209),
    ("chinese_civil_service_exam", "中国公务员考试", "Social Science", 160),
    ("chinese_driving_rule", "中国驾驶规则", "Other", 131),
    ("chinese_food_culture", "中国饮食文化", "Social Science", 136),
    ("chinese_foreign_policy", "中国外交政策", "Social Science", 107),
    ("chinese_history", "中国历史", "Humanities", 323),
    ("chinese_literature", "中国文学", "Humanities", 204),
    ("chinese_teacher_qualification", "中国教师资格", "Social Science", 179),
    ("clinical_knowledge", "临床知识", "Other", 237),
    ("college_actuarial_science", "大学精算学", "STEM", 106),
    ("college_education", "大学教育学", "Social Science", 107),
    ("college_engineering_hydrology", "大学工程水文学", "STEM", 106),
    ("college_law", "大学法律", "Humanities", 108),
    ("college_mathematics", "大学数学", "STEM", 105),
    ("college_medical_statistics", "大学医学统计", "STEM", 106),
    ("college_medicine", "大学医学", "Other", 273),
    ("computer_science", "计算机科学", "STEM", 204),
    ("computer_security", "计算机安全", "Other", 171),
    ("conceptual_physics", "概念物理学", "STEM", 147),
    ("construction_project_management", "建设工程管理", "Other", 139),
    ("economics", "经济学", "Social Science", 159),
    ("education", "教育学", "Social Science", 163),
    ("electrical_engineering", "电气工程", "STEM", 172),
    ("elementary_chinese", "小学语文", "Social Science", 252),
    ("elementary_commonsense", "小学常识", "Other", 198),
    ("elementary_information_and_technology", "小学信息技术", "Other", 238),
    ("elementary_mathematics", "初等数学", "STEM", 230),
    ("ethnology", "民族学", "Social Science", 135),
    ("food_science", "食品科学", "Other", 143),
    ("genetics", "遗传学", "STEM", 176),
    ("global_facts", "全球事实", "Humanities", 149),
    ("high_school_biology", "高中生物", "STEM", 169),
    ("high_school_chemistry", "高中化学", "STEM", 132),
    ("high_school_geography", "高中地理", "Social Science", 118),
    ("high_school_mathematics", "高中数学", "STEM", 164),
    ("high_school_physics", "高中物理学", "STEM", 110),
    ("high_school_politics", "高中政治", "Social Science", 143),
    ("human_sexuality", "人类性行为", "Other", 126),
    ("international_law", "国际法学", "Humanities", 185),
    ("journalism", "新闻学", "Social Science", 172),
    ("jurisprudence", "法理学", "Humanities", 411),
    ("legal_and_moral_basis", "法律与道德基础", "Other", 214),
    ("logical", "逻辑学", "Humanities", 123),
    ("machine_learning", "机器学习", "STEM", 122),
    ("management", "管理学", "Social Science", 210),
    ("marketing", "市场营销", "Social Science", 180),
    ("marxist_theory", "马克思主义理论", "Humanities", 189),
    ("modern_chinese", "现代汉语", "Social Science", 116),
    ("nutrition", "营养学", "Other", 145),
    ("philosophy", "哲学", "Humanities", 105),
    ("professional_accounting", "专业会计", "Social Science", 175),
    ("professional_law", "专业法学", "Humanities", 211),
    ("professional_medicine", "专业医学", "Other", 376),
    ("professional_psychology", "专业心理学", "Social Science", 232),
    ("public_relations", "公共关系", "Social Science", 174),
    ("security_study", "安全研究", "Social Science", 135),
    ("sociology", "社会学", "Social Science", 226),
    ("sports_science", "体育学", "Other", 165),
    ("traditional_chinese_medicine", "中医中药", "Other", 185),
    ("virology", "病毒学", "STEM", 169),
    ("world_history", "世界历史", "Humanities", 161),
    ("world_religions", "世界宗教", "Humanities", 160),
]
"""Name, Chinese title, category, questions in `test`."""

_CEVAL = [
    ("computer_network", "计算机网络", "STEM", 19, 171),
    ("operating_system", "操作系统", "STEM", 19, 179),
    ("computer_architecture", "计算机组成", "STEM", 21, 193),
    ("college_programming", "大学编程", "STEM", 37, 342),
    ("college_physics", "大学物理", "STEM", 19, 176),
    ("college_chemistry", "大学化学", "STEM", 24, 224),
    ("advanced_mathematics", "高等数学", "STEM", 19, 173),
    ("probability_and_statistics", "概率统计", "STEM", 18, 166),
    ("discrete_mathematics", "离散数学", "STEM", 16, 153),
    ("electrical_engineer", "注册电气工程师", "STEM", 37, 339),
    ("metrology_engineer", "注册计量师", "STEM", 24, 219),
    ("high_school_mathematics", "高中数学", "STEM", 18, 166),
    ("high_school_physics", "高中物理", "STEM", 19, 175),
    ("high_school_chemistry", "高中化学", "STEM", 19, 172),
    ("high_school_biology", "高中生物", "STEM", 19, 175),
    ("middle_school_mathematics", "初中数学", "STEM", 19, 177),
    ("middle_school_biology", "初中生物", "STEM", 21, 192),
    ("middle_school_physics", "初中物理", "STEM", 19, 178),
    ("middle_school_chemistry", "初中化学", "STEM", 20, 185),
    ("veterinary_medicine", "兽医学", "STEM", 23, 210),
    ("college_economics", "大学经济学", "Social Science", 55, 497),
    ("business_administration", "工商管理", "Social Science", 33, 301),
    ("marxism", "马克思主义基本原理", "Social Science", 19, 179),
    ("mao_zedong_thought", "毛泽东思想和中国特色社会主义理论体系概论", "Social Science", 24, 219),
    ("education_science", "教育学", "Social Science", 29, 270),
    ("teacher_qualification", "教师资格", "Social Science", 44, 399),
    ("high_school_politics", "高中政治", "Social Science", 19, 176),
    ("high_school_geography", "高中地理", "Social Science", 19, 178),
    ("middle_school_politics", "初中政治", "Social Science", 21, 193),
    ("middle_school_geography", "初中地理", "Social Science", 12, 108),
    ("modern_chinese_history", "近代史纲要", "Humanities", 23, 212),
    ("ideological_and_moral_cultivation", "思想道德修养与法律基础", "Humanities", 19, 172),
    ("logic", "逻辑学", "Humanities", 22, 204),
    ("law", "法学", "Humanities", 24, 221),
    ("chinese_language_and_literature", "中国语言文学", "Humanities", 23, 209),
    ("art_studies", "艺术学", "Humanities", 33, 298),
    ("professional_tour_guide", "导游资格", "Humanities", 29, 266),
    ("legal_professional", "法律职业资格", "Humanities", 23, 215),
    ("high_school_chinese", "高中语文", "Humanities", 19, 178),
    ("high_school_history", "高中历史", "Humanities", 20, 182),
    ("middle_school_history", "初中历史", "Humanities", 22, 207),
    ("civil_servant", "公务员", "Other", 47, 429),
    ("sports_science", "体育学", "Other", 19, 180),
    ("plant_protection", "植物保护", "Other", 22, 199),
    ("basic_medicine", "基础医学", "Other", 19, 175),
    ("clinical_medicine", "临床医学", "Other", 22, 200),
    ("urban_and_rural_planner", "注册城乡规划师", "Other", 46, 418),
    ("accountant", "注册会计师", "Other", 49, 443),
    ("fire_engineer", "注册消防工程师", "Other", 31, 282),
    ("environmental_impact_assessment_engineer", "环境影响评价工程师", "Other", 31, 281),
    ("tax_accountant", "税务师", "Other", 49, 443),
    ("physician", "医师资格", "Other", 49, 443),
]
"""Name, Chinese title, category, questions in `val` and in `test`."""

CMMLU = Benchmark(
    name="cmmlu",
    title="CMMLU",
    task_prefix="cmmlu_",
    hub_path="haonan-li/cmmlu",
    usual_names=("cmmlu", "CMMLU"),
    scored_split="test",
    splits=("dev", "test"),
    file_pattern="{subject}.csv",
    columns=("Question", "A", "B", "C", "D", "Answer"),
    license="CC BY-NC 4.0",
    homepage="https://github.com/haonan-li/CMMLU",
    subjects=tuple(
        Subject(name=name, title_zh=zh, category=category, rows={"dev": 5, "test": test})
        for name, zh, category, test in _CMMLU
    ),
)

CEVAL = Benchmark(
    name="ceval-valid",
    title="C-Eval (validation)",
    task_prefix="ceval-valid_",
    hub_path="ceval/ceval-exam",
    usual_names=("ceval", "ceval-exam", "C-Eval"),
    scored_split="val",
    splits=("dev", "val"),
    file_pattern="{subject}_{split}.csv",
    columns=("question", "A", "B", "C", "D", "answer"),
    license="CC BY-NC-SA 4.0",
    homepage="https://github.com/hkust-nlp/ceval",
    subjects=tuple(
        Subject(name=name, title_zh=zh, category=category, rows={"dev": 5, "val": val, "test": test})
        for name, zh, category, val, test in _CEVAL
    ),
)

BENCHMARKS = {benchmark.name: benchmark for benchmark in (CMMLU, CEVAL)}

KNOWN_ARCHIVES = {
    "4784d6ea81d66a38d7c950fe22b5db7b9464762ed791a7ddc47a1405c3e9a3aa": "ceval_data.tar of ceval/ceval-exam",
    "68786deeea68ff089c56563ee48fab8160da857b77b913437bb504d681fd8e20": "ceval-exam.zip of 1548171 bytes",
}
"""SHA-256 of published archives, from their Git LFS pointers. No other sums are published that we know of; the
row counts above are what tells the published questions from others."""


def task_owner(task: str) -> tuple[Benchmark, Subject] | None:
    """The benchmark and subject of one of lm_eval's task names; None if it is not a subject's."""
    for benchmark in BENCHMARKS.values():
        name = task.removeprefix(benchmark.task_prefix)
        if name != task and any(subject.name == name for subject in benchmark.subjects):
            return benchmark, benchmark.subject(name)
    return None


def task_problems(names: Sequence[str]) -> list[Message]:
    """What is wrong with TASKS; empty if each is one of the groups, or one of their subjects, once."""
    valid = {task for benchmark in BENCHMARKS.values() for task in (benchmark.name, *benchmark.tasks())}
    problems = [
        at("TASKS", "eval-unknown-group", name=name, groups=list(BENCHMARKS)) for name in names if name not in valid
    ]
    for benchmark in BENCHMARKS.values():
        twice = [name for name in names if benchmark.name in names and name in benchmark.tasks()]
        problems += [at("TASKS", "eval-in-group", name=name, group=benchmark.name) for name in twice]
    return problems + named_twice(names)


def named_twice(names: Sequence[str]) -> list[Message]:
    """Which tasks are."""
    return [at("TASKS", "eval-twice", name=name) for name in dict.fromkeys(names) if list(names).count(name) > 1]
