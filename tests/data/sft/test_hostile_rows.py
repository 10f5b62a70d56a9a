"""Files as users have them, and any JSON in any place: rows are used or lost with a reason, never a traceback."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_patch.common.messages import Message
from megatron_patch.data import rows
from megatron_patch.data.corpus import TextCorpus, read
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.rows import Cut, ReadPosition
from megatron_patch.data.sft.cache import CacheSource, TokenizedCache, open_cache
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.formats import ROW_KEYS
from megatron_patch.data.sft.loss_mask import EARLIER_TURN
from megatron_patch.data.sft.rendering.template import ChatTemplate, TemplateError
from megatron_patch.data.sft.report import DataReport, TooMuchLost
from megatron_patch.data.sft.selection import select
from megatron_patch.data.sft.side_by_side import compare
from megatron_patch.data.sft.tokenize import TokenizedRows, tokenize_chunk

Write = Callable[[Path, list[Any]], Path]
GOOD = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}


def cache_of(data: Path, tokenizer_folder: Path) -> TokenizedCache:
    return open_cache(CacheSource.of([data], tokenizer_folder), data.parent / "cache", say=lambda line: None, workers=1)


def lost(cache: TokenizedCache) -> list[str]:
    return [str(example.told) for cause in cache.report.lost.values() for example in cause.first]


def trained_text(cache: TokenizedCache, tokenizer: ChatTokenizer, number: int) -> str:
    tokens, turns = cache.row(number)
    return str(tokenizer.backend.decode(tokens[turns >= EARLIER_TURN].tolist(), skip_special_tokens=False))


def test_a_file_without_a_usable_row(tmp_path: Path, tokenizer_folder: Path, write_json_lines: Write) -> None:
    data = write_json_lines(tmp_path / "none.jsonl", [{"text": "a document, not a conversation"}])
    with pytest.raises(TooMuchLost, match=r"nothing is left to train on\n0 of 1 rows used[\s\S]*none\.jsonl:1: no kn"):
        select(cache_of(data, tokenizer_folder), seq_length=64, loss="assistant")


@pytest.mark.parametrize("filler", [b"\n" * 1_200_000, json.dumps({"text": "x" * 600_000}).encode() + b"\n"])
def test_a_chunk_without_a_usable_row(tmp_path: Path, tokenizer_folder: Path, filler: bytes) -> None:
    good = json.dumps(GOOD).encode() + b"\n"
    data = tmp_path / "large.jsonl"
    data.write_bytes(good * 5 + filler + good * 5)
    cache = cache_of(data, tokenizer_folder)
    assert len(cache) == 10 and len(lost(cache)) == (b"text" in filler)


def test_null_rows_in_parquet(tmp_path: Path, tokenizer_folder: Path) -> None:
    data = tmp_path / "nulls.parquet"
    pq.write_table(pa.table({"messages": pa.array([None] * 600 + [GOOD["messages"]] * 6)}), data)
    cache = cache_of(data, tokenizer_folder)
    assert len(cache) == 6 and cache.report.rows == 606
    assert lost(cache)[0] == f"{data}: row 1: 'messages' is a JSON null; wanted a list of turns"
    assert cache.origin(0) == (str(data), 0, 601)


def test_messages_as_json_text(tmp_path: Path, tokenizer_folder: Path) -> None:
    texts = [json.dumps(GOOD["messages"]), "not JSON", "[", json.dumps(GOOD["messages"])]
    pq.write_table(pa.table({"messages": texts}), tmp_path / "text.parquet")
    cache = cache_of(tmp_path / "text.parquet", tokenizer_folder)
    assert len(cache) == 2 and "row 2: 'messages' is a string that is not a JSON list" in lost(cache)[0]


def test_parquet_trains_what_its_twin_trains(tmp_path: Path, tokenizer_folder: Path, write_json_lines: Write) -> None:
    """Each struct has the fields of all rows: null ones are not part of a call or a schema."""

    def row(name: str, argument: str, value: Any) -> dict[str, Any]:
        schema = {"type": "object", "properties": {argument: {"type": "string"}}}
        call = {"type": "function", "function": {"name": name, "arguments": {argument: value}}}
        turns = [
            {"role": "user", "content": name},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "ok"},
            {"role": "assistant", "content": "Done."},
        ]
        return {"tools": [{"type": "function", "function": {"name": name, "parameters": schema}}], "messages": turns}

    records = [row("turn", "theta", 90), row("say", "message", "hi")]
    twin = cache_of(write_json_lines(tmp_path / "rows.jsonl", records), tokenizer_folder)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    cache = cache_of(tmp_path / "rows.parquet", tokenizer_folder)
    assert len(cache) == 2 and cache.tokens.tolist() == twin.tokens.tolist()
    assert cache.turns.tolist() == twin.turns.tolist() and cache.offsets.tolist() == twin.offsets.tolist()


@pytest.mark.parametrize("flag", [{"weight": 0}, {"loss": False}, {"train": False}])
def test_a_turn_that_is_not_trained_is_context(
    flag: dict[str, Any], tmp_path: Path, tokenizer: ChatTokenizer, tokenizer_folder: Path, write_json_lines: Write
) -> None:
    turns = [*GOOD["messages"], {"role": "user", "content": "no"}, {"role": "assistant", "content": "four"}]
    marked = [turns[0], turns[1] | flag, *turns[2:]]
    cache = cache_of(
        write_json_lines(tmp_path / "w.jsonl", [{"messages": turns}, {"messages": marked}]), tokenizer_folder
    )
    assert cache.row(0)[0].tolist() == cache.row(1)[0].tolist()
    assert trained_text(cache, tokenizer, 0) == "4<|eot_id|>four<|eot_id|>"
    assert trained_text(cache, tokenizer, 1) == "four<|eot_id|>"


def test_a_conversation_that_begins_with_the_assistant(
    tmp_path: Path, tokenizer: ChatTokenizer, tokenizer_folder: Path, write_json_lines: Write
) -> None:
    first = [{"from": "gpt", "value": "Hello!"}, {"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    cache = cache_of(write_json_lines(tmp_path / "a.jsonl", [GOOD, {"conversations": first}, GOOD]), tokenizer_folder)
    assert len(cache) == 3 and trained_text(cache, tokenizer, 1) == "Hello!<|eot_id|>4<|eot_id|>"


def calling(arguments: dict[str, Any]) -> dict[str, Any]:
    turn = {"role": "assistant", "tool_calls": [{"name": "f", "args": arguments}]}
    return {"messages": [GOOD["messages"][0], turn]}


@pytest.mark.parametrize(
    "record",
    [
        GOOD | {"tools": [{"type": "function", "function": {"name": "say", "description": "ends with <|eot_id|>"}}]},
        {
            "messages": [
                GOOD["messages"][0],
                {"role": "assistant", "tool_calls": [{"name": "f", "args": {"x": "<|eot_id|>"}}]},
            ]
        },
        {
            "messages": [
                GOOD["messages"][0],
                {"role": "assistant", "tool_calls": [{"name": "f", "args": {"<|eot_id|>": 1}}]},
            ]
        },
        {"messages": [{"role": "user", "content": "hi<|eot_id|>"}, GOOD["messages"][1]]},
    ],
)
def test_special_tokens_that_were_typed_are_reported(
    record: dict[str, Any], tmp_path: Path, tokenizer_folder: Path, write_json_lines: Write
) -> None:
    cache = cache_of(write_json_lines(tmp_path / "inject.jsonl", [GOOD, record]), tokenizer_folder)
    assert cache.report.files[0].special_rows == 1


def test_answers_that_end_without_a_token_are_counted(
    tmp_path: Path, tokenizer_folder: Path, write_json_lines: Write
) -> None:
    """A template without an end of turn, and one whose generation block leaves it out: no answer learns to end."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    data = write_json_lines(tmp_path / "rows.jsonl", [GOOD, GOOD, {"text": "?"}])
    body = "{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}"
    for number, (turn, count) in enumerate([("{{ m.content }}\n", 2), ("{{ m.content + eos_token }}\n", 0), (body, 2)]):
        for file in folder.glob("chat_template*"):
            file.unlink()
        (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: " + turn + "{% endfor %}")
        source = CacheSource.of([data], folder)
        cache = open_cache(source, tmp_path / f"cache{number}", say=lambda line: None, workers=1)
        assert cache.report.files[0].rows_without_eos == count
        assert ("sft-endless" in [_inner(line) for line in cache.report.lines()]) == bool(count)


def _inner(message: Message) -> str:
    return getattr(message.values.get("text"), "code", "")


def test_rows_of_a_list_on_one_line_have_numbers(tmp_path: Path, tokenizer_folder: Path) -> None:
    data = tmp_path / "list.json"
    data.write_text(json.dumps([GOOD, {"text": "?"}, GOOD, 5]))
    cache = cache_of(data, tokenizer_folder)
    assert lost(cache)[0].startswith(f"{data}:1: row 2: no known format")
    assert lost(cache)[1] == f"{data}:1: row 4: a JSON number; wanted an object"
    assert [cache.origin(number)[1:] for number in range(2)] == [(1, 1), (1, 3)]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**4000)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.sampled_from(["", " ", "\ud83e", "<|eot_id|>", "[", "[]", "{}", '{"name": "f", "arguments": {}}', "1" * 5000])
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def maybe(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return usual | usual | ANY


TEXT = maybe(st.sampled_from(["a", "2+2?", "four", "x <|eot_id|>"]))
CALL = maybe(
    st.fixed_dictionaries(
        {},
        optional={
            "id": maybe(st.just("call_1")),
            "name": maybe(st.just("f")),
            "arguments": maybe(st.dictionaries(st.text(max_size=3), ANY, max_size=2)),
            "args": ANY,
            "function": maybe(st.fixed_dictionaries({"name": maybe(st.just("f")), "arguments": ANY})),
        },
    )
)
TURN = maybe(
    st.fixed_dictionaries(
        {"role": maybe(st.sampled_from(["system", "user", "assistant", "tool"])), "content": TEXT},
        optional={
            "tool_calls": maybe(st.lists(CALL, max_size=2)),
            "function_call": CALL,
            "weight": maybe(st.sampled_from([0, 1, True, False])),
            "loss": ANY,
            "reasoning_content": ANY,
            "name": ANY,
        },
    )
    | st.fixed_dictionaries({"from": maybe(st.sampled_from(["human", "gpt", "function_call"])), "value": TEXT})
)
TURNS = maybe(st.lists(TURN, min_size=1, max_size=4))
ROW = maybe(
    st.fixed_dictionaries({"messages": TURNS}, optional={"tools": maybe(st.lists(ANY, max_size=2)), "system": ANY})
    | st.fixed_dictionaries({"conversations": TURNS}, optional={"functions": ANY, "tools": ANY})
    | st.fixed_dictionaries({"instruction": TEXT, "output": TEXT}, optional={"input": TEXT, "history": ANY})
    | st.fixed_dictionaries({"prompt": TEXT | TURNS, "completion": TEXT | TURNS})
    | st.fixed_dictionaries({"text": TEXT})
)
FILES = st.one_of(
    st.lists(ROW, max_size=4).map(lambda found: "\n".join(map(json.dumps, found)).encode()),
    st.lists(ROW, max_size=4).map(lambda found: json.dumps(found).encode()),
    st.lists(ROW, max_size=4).map(lambda found: json.dumps({"data": found}, indent=1).encode()),
    st.lists(ROW.map(json.dumps) | st.text(max_size=20), max_size=4).map(
        lambda found: "\n".join(found).encode("utf-8", "surrogatepass")
    ),
    st.integers(1, 20_000).map(lambda depth: b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"),
    st.binary(max_size=60),
)
PROPERTY = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def encoder(tokenizer: ChatTokenizer) -> Encoder:
    return Encoder(tokenizer, "hf")


@PROPERTY
@given(content=FILES)
def test_any_json_ends_in_a_report(content: bytes, tmp_path: Path, encoder: Encoder, template: ChatTemplate) -> None:
    """Each row is used or lost with a reason; a file whose rows cannot be told apart is named."""
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    try:
        pieces = [
            tokenize_chunk(chunk, path, encoder, template)
            for chunk in rows.chunks(0, path, Cut(chunk_bytes=50, row_keys=ROW_KEYS, numbered=True))
        ]
    except (DataError, TemplateError) as error:
        assert str(path) in str(error)
        return
    for piece in pieces:
        _check(piece)


def _check(piece: TokenizedRows) -> None:
    assert piece.rows == len(piece.lengths) + len(piece.lost)
    assert len(piece.tokens) == len(piece.turns) == piece.lengths.sum()
    assert piece.places.shape == (len(piece.lengths), 2) and piece.tokens.dtype == np.int32
    assert all(entry[-1] for entry in piece.lost)


@PROPERTY
@given(content=FILES)
def test_any_json_as_a_corpus(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(content)
    corpus = TextCorpus(files=[path], key="text")
    try:
        texts = [text for chunk in corpus.chunks(ReadPosition()) for text in read(chunk, path, "text").texts]
    except DataError as error:
        assert str(path) in str(error)
    else:
        "".join(texts).encode()


@settings(PROPERTY, max_examples=100)
@given(row=ROW)
def test_any_row_side_by_side(row: Any, tmp_path: Path, template: ChatTemplate) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(json.dumps(row).encode() + b"\n")
    try:
        assert compare(path, 1, template, 100).startswith(str(path))
    except (DataError, TemplateError) as error:
        assert str(path) in str(error)


PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.slow
@settings(PROPERTY, max_examples=40)
@given(contents=st.lists(FILES, min_size=1, max_size=3), packed=st.sampled_from([*PACKERS]))
def test_any_files_end_in_a_report(
    contents: list[bytes], packed: str, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Through the whole way: a folder of files, the cache, the selection, the report as JSON."""
    folder = tmp_path_factory.mktemp("any")
    for number, content in enumerate(contents):
        (folder / f"{number}.jsonl{packed}").write_bytes(PACKERS[packed](content))
    try:
        cache = open_cache(
            CacheSource.of([folder], tokenizer_folder),
            tmp_path_factory.mktemp("cache"),
            say=lambda line: None,
            workers=1,
        )
        _, report = select(cache, seq_length=64, loss="assistant", max_lost=1.0)
    except (DataError, TemplateError) as error:
        assert str(folder) in str(error)
    except TooMuchLost as error:
        assert str(error).startswith("nothing is left to train on\n0 of ")
    else:
        assert report.rows == report.samples + report.lost_rows
        report.write(folder / "report.json")
        assert DataReport.from_dict(json.loads((folder / "report.json").read_text())) == report
