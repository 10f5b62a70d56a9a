"""The catalogue of texts: no code twice, every code used and known, the same placeholders in every language."""

from __future__ import annotations

import ast
import errno
import json
import os
import pickle
import re
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from megatron_patch.common import texts
from megatron_patch.common.disk import CAUSES
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import (
    Message,
    Name,
    Wording,
    as_json,
    from_json,
    language_of,
    localized,
    read_message,
    say,
)
from megatron_patch.common.texts import CHINESE, ENGLISH, SUBJECTS, libraries

PACKAGE = Path(texts.__file__).parents[2]
LATER = {"expected", "fits", "tool"}
"""Values that are added where an error becomes a problem of the command line."""
SAYS = ("Message", "Problem", "UserError", "localized", "wrong", "say", "at", "idle")
SAYS += ("MalformedRow", "EmptyRow", "TooMuchLost", "TooMuchWork", "BrokenIndex", "NoData", "NotComparable")
"""Calls whose first argument is a code (of `at` the second), besides those of error classes."""


def placeholders(template: str) -> set[str]:
    """Names in the gaps, also inside of format specifications."""
    found = set()
    for _, name, spec, _ in string.Formatter().parse(template):
        found |= {name} | placeholders(spec or "") if name is not None else set()
    return found


def of_code(texts: dict[str, str | tuple[str, str]], code: str) -> set[str]:
    text = texts[code]
    return set().union(*map(placeholders, [text] if isinstance(text, str) else text))


def sources() -> Iterator[ast.AST]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "texts" not in path.parts:
            yield ast.parse(path.read_text(encoding="utf-8"))


def worded_calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Each call with a literal text where a code would stand: the name of what is called, the text, the call."""
    for tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for word in node.args[called == "at" :][:1]:  # `at` has a path before it
                if isinstance(word, ast.Constant) and isinstance(word.value, str):
                    yield called, word.value, node


def calls() -> Iterator[tuple[str, set[str], bool]]:
    """Each code that is said, with the values that it is given; whether there are more that cannot be seen here."""
    for called, code, node in worded_calls():
        if (called in SAYS or called.endswith(("Error", "Problem"))) and code in ENGLISH:
            names = {keyword.arg for keyword in node.keywords if keyword.arg}
            yield code, names, any(keyword.arg is None for keyword in node.keywords) or called in ("idle",)


@pytest.mark.parametrize("language", ["ENGLISH", "CHINESE"])
def test_no_code_stands_twice(language: str) -> None:
    """Python keeps the last of two equal keys, and of two equal keys of two files, without a word."""
    keys: list[str] = []
    for subject in SUBJECTS:
        tree = ast.parse(Path(str(subject.__file__)).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == language:
                keys += [key.value for key in node.value.keys]  # type: ignore[union-attr]
    assert keys
    assert [key for key, count in Counter(keys).items() if count > 1] == []


def test_every_subject_is_in_the_catalogue() -> None:
    files = {path.stem for path in Path(texts.__file__).parent.glob("*.py")} - {"__init__"}
    assert {subject.__name__.rpartition(".")[2] for subject in SUBJECTS} == files


def test_every_code_that_is_said_exists() -> None:
    found = [word for called, word, _ in worded_calls() if called in ("Message", "localized", "at")]
    assert len(found) > 1000 and [code for code in found if code not in ENGLISH] == []


def test_every_code_is_used() -> None:
    """Of names the part after `name:`, which may be a field's; argparse looks its own texts up."""
    nodes = [node for tree in sources() for node in ast.walk(tree)]
    said = {node.value for node in nodes if isinstance(node, ast.Constant)}
    fields = {node.id.replace("_", " ") for node in nodes if isinstance(node, ast.Name)}
    codes = {code for code in ENGLISH if not code.startswith(("name:", "argparse:"))}
    names = {
        code.removeprefix("name:") for code in ENGLISH.keys() - libraries.ENGLISH.keys() if code.startswith("name:")
    }
    assert sorted(codes - said) == []
    assert sorted(names - said - fields) == []


BAD_JSON = ("", "{", '{"a" 1}', '{"a": 1 "b"}', "1 2", '"a', '"\x01"', '"\\q"', '"\\u12"')


def test_words_of_libraries_are_theirs() -> None:
    said = {os.strerror(number) for number in (*CAUSES, errno.ENAMETOOLONG)}
    for text in BAD_JSON:
        with pytest.raises(json.JSONDecodeError) as error:
            json.loads(text)
        said.add(error.value.msg)
    assert {code.removeprefix("name:") for code in libraries.ENGLISH} == said


def test_every_placeholder_is_given() -> None:
    """Capital names are the positions' and variables' own."""
    wrong = {}
    for code, given, more in calls():
        wanted = {name for name in of_code(ENGLISH, code) if not name.isupper()} - LATER
        if wanted - given and not more:
            wrong[code] = wanted - given
        surplus = given - wanted - LATER
        if surplus:
            wrong[code] = surplus
    assert wrong == {}


def test_chinese_is_complete() -> None:
    for subject in SUBJECTS:
        assert list(subject.CHINESE) == list(subject.ENGLISH), subject.__name__


@pytest.mark.parametrize("code", sorted(CHINESE))
def test_both_languages_have_the_same_placeholders(code: str) -> None:
    assert of_code(CHINESE, code) == of_code(ENGLISH, code)
    assert isinstance(CHINESE[code], str) == isinstance(ENGLISH[code], str)


def test_names_are_those_that_the_user_typed() -> None:
    driver = Wording(numbers={"SAVE_INTERVAL": 19, "AC": 17})
    nemo = Wording(
        flags={"SAVE_INTERVAL": "--save_interval", "SP": "-SP"},
        settings={("AC", "full"): "--recompute_granularity full"},
    )
    change = Message("disk-interval")
    assert driver.text(change) == "a larger SAVE_INTERVAL (position 19), or another disk"
    assert nemo.text(change) == "a larger --save_interval, or another disk"
    assert driver.text(Message("change-ac")) == "AC=full (position 17)"
    assert nemo.text(Message("change-ac")) == "--recompute_granularity full"
    assert driver.heading("SAVE_INTERVAL") == "position 19 SAVE_INTERVAL"
    assert nemo.heading("SAVE_INTERVAL") == nemo.name("SAVE_INTERVAL") == "--save_interval"
    assert nemo.text(Message("nemo-idle-wandb", name=Name("SP"))) == "-SP does nothing without --wandb"


def test_counts_have_their_noun() -> None:
    shared = [str(Message("processes-share-cores", processes=8, cores=cores)) for cores in (1, 2)]
    assert shared == ["8 processes share 1 core", "8 processes share 2 cores"]


def test_values_are_not_read_as_templates() -> None:
    assert str(Message("no-such-file", files=["{TP}", "a{b"])) == "no such file: {TP}, a{b"


def test_messages_are_kept_as_codes() -> None:
    """In a file, and between processes: the language is that of who reads them."""
    inner = UserError.of([Message("json-too-deep", most=100), Message("json-not-object")])
    message = Message("at", path=Path("a.json"), what=Message("data-unreadable", file=np.int32(3), error=inner))
    kept = from_json(json.loads(json.dumps(as_json(message))))
    assert str(kept).replace(", ", "; ") == str(message)
    assert Wording(language="zh").text(kept).startswith("a.json：3 无法读到末尾：")


def test_errors_inside_of_errors_are_translated() -> None:
    message = Message("data-unreadable", file="a", error=UserError("json-not-object"))
    assert str(message) == f"a cannot be read to its end: {ENGLISH['json-not-object']}"
    assert Wording(language="zh").text(message) == f"a 无法读到末尾：{CHINESE['json-not-object']}"
    assert str(Message("data-unreadable", file="a", error=KeyError("b"))).endswith("KeyError: 'b'")


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({}, "en"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "ja_JP.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "MP_LANG": "en"}, "en"),
        ({"MP_LANG": "zh"}, "zh"),
    ],
)
def test_the_language_is_the_users(environ: dict[str, str], language: str) -> None:
    assert language_of(environ) == language


def test_errors_carry_codes_through_processes() -> None:
    error = pickle.loads(pickle.dumps(UserError("no-such-file", files=["a"])))
    assert (error.code, str(error)) == ("no-such-file", "no such file: a")
    assert UserError("something else, in words").code == "uncoded"
    both = UserError.of([Message("no-such-folder"), Message("file-not-folder")])
    assert str(both) == "no such folder; a file, not a folder"
    there = UserError.at(Path("a.json"), "no-such-file", files=["b"])
    assert (there.code, str(there)) == ("no-such-file", "a.json: no such file: b")


def test_a_screen_speaks_the_language_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for language, sentence in (("en", "no such folder"), ("zh", "没有这个文件夹")):
        monkeypatch.setenv("MP_LANG", language)
        assert localized("no-such-folder") == UserError("no-such-folder").localized() == sentence


@pytest.mark.parametrize(
    "content",
    [
        None,
        3,
        "at",
        {},
        {"code": "at"},
        {"code": "of later", "values": {}},
        {"code": ["at"], "values": {}},
        {"code": "at", "values": []},
        {"code": "at", "values": {"path": 1}},
        {"code": "at", "values": {"path": 1, "what": {}}},
    ],
)
def test_messages_of_other_versions_are_not_read(content: object) -> None:
    assert read_message(content) is None


def test_the_screen_speaks_the_users_language(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for language, said in (("en", "stopped after 1 token"), ("zh", "1 个词元后停止")):
        monkeypatch.setenv("MP_LANG", language)
        say("generate-stopped", tokens=1)
        assert capsys.readouterr().out == f"{said}\n"


@pytest.mark.parametrize(
    "told",
    [
        *(
            "an H100",
            "an H200",
            "an A100",
            "a B200",
            "a GB200",
            "an MI300X",
            "an L40S",
            "a V100",
            "an RTX 6000",
            "a T4",
        ),
        *(
            "an 8B model",
            "an 80 GB card",
            "a 70B model",
            "an 11 GB card",
            "an 18B model",
            "a 110B model",
            "a 1,100 W card",
        ),
        *("an 11,000 GB disk", "an 800 GB disk", "a GPU", "an NVIDIA H100", "a Tesla", "an Instinct", "a unit"),
    ],
)
def test_articles_are_as_a_word_sounds(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGLISH, "test-article", "{thing:a} has room")
    assert str(Message("test-article", thing=told.partition(" ")[2])) == f"{told} has room"


def test_no_text_has_an_article_before_a_name_that_is_filled_in() -> None:
    """`a {gpu}` is `a H100` for some; a name of a flag or file needs none."""
    values = re.compile(r"\b[Aa]n? \{(?!file\b|[A-Z])[^}]*\}")
    found = [
        code
        for code, text in ENGLISH.items()
        for part in ([text] if isinstance(text, str) else text)
        if values.search(part)
    ]
    assert found == []
