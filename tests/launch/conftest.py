"""A small world on disk: a tokenizer, idxmaps, checkpoints; and 25 values that are right, to be changed one by one."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from megatron_patch.checkpoint.formats.safetensors_io import ITEM_SIZES, header_bytes
from megatron_patch.common.machine import Gpu
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import Plan
from megatron_patch.models import model_of_size, model_to_hf_config
from megatron_patch.models.weight_map import hf_shapes

VALUES = (
    "dsw tiny 1 8 1e-3 1e-4 128 128 fp32 1 1 1 false false true false false false 100 text valid none 10240 1024 out"
)


def write_idxmap(prefix: Path, documents: int = 20, length: int = 100) -> Path:
    """An idxmap of ascending token ids, as Megatron's IndexedDatasetBuilder lays it out."""
    whole, rest = divmod(documents * length, 256)
    ids = struct.pack("<256i", *range(256))
    prefix.with_name(f"{prefix.name}.bin").write_bytes(ids * whole + ids[: 4 * rest])
    body = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 4, documents, documents + 1)
    body += struct.pack(f"<{documents}i", *[length] * documents)
    body += struct.pack(f"<{documents}q", *[4 * length * index for index in range(documents)])
    body += struct.pack(f"<{documents + 1}q", *range(documents + 1))
    prefix.with_name(f"{prefix.name}.idx").write_bytes(body)
    return prefix


TEMPLATE = "{% for m in messages %}{{ m.role + m.content + eos_token }}{% endfor %}"


def write_tokenizer(folder: Path, **changes: object) -> None:
    """A byte-level tokenizer without merges: 256 bytes and two special tokens; other values of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end_of_text|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))


def write_mcore(folder: Path, tracker: str = "1") -> None:
    """What a complete torch_dist checkpoint looks like from outside."""
    target = folder / ("release" if tracker == "release" else f"iter_{int(tracker):07d}")
    target.mkdir(parents=True)
    (target / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    (target / ".metadata").write_bytes(b"x")
    (target / "__0_0.distcp").write_bytes(b"x")
    (folder / "latest_checkpointed_iteration.txt").write_text(tracker)


def write_hf(folder: Path, size: str, vocab_size: int | None = None, **changes: object) -> None:
    """A Hugging Face folder: config, index, tokenizer, two shards: headers before holes on the disk.

    Args:
        changes: of config.json.
    """
    write_tokenizer(folder)
    model = model_of_size(size)
    vocab_size = vocab_size or model.vocab_size or 258
    config = model_to_hf_config(model, dtype="bfloat16", vocab_size=vocab_size)
    (folder / "config.json").write_text(json.dumps(config | changes))
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    shapes = hf_shapes(model, vocab_size)
    index = {"weight_map": {name: shards[number % 2] for number, name in enumerate(shapes)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for shard in shards:
        write_shard(
            folder / shard, {name: shapes[name] for name, where in index["weight_map"].items() if where == shard}
        )


def write_shard(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Safetensors in bf16 whose values are a hole on the disk."""
    header = header_bytes({name: ("BF16", shape) for name, shape in shapes.items()})
    file.write_bytes(header)
    os.truncate(file, len(header) + sum(math.prod(shape) * ITEM_SIZES["BF16"] for shape in shapes.values()))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the values' relative paths start from; tests do not write into it."""
    root = tmp_path_factory.mktemp("world").resolve()
    write_tokenizer(root / "tokenizer")
    write_tokenizer(root / "base-tokenizer", chat_template=None)
    for name in ("text", "valid", "more", "with space", "$(touch pwned)"):
        write_idxmap(root / name)
    for length in (128, 8192):
        write_idxmap(root / f"sft-{length}", length=2 * length)
    (root / "chats").mkdir()
    for chat in (root / "chat.json", root / "chats" / "chat.json"):
        chat.write_text('[{"instruction": "a", "output": "b"}]')
    for size in ("tiny", "1B", "8B"):
        write_hf(root / f"hf-{size}", size)
    write_mcore(root / "mcore-tp4-pp2")
    write_tokenizer(root / "mcore-tp4-pp2")
    write_mcore(root / "released", "release")
    return root


@pytest.fixture
def idxmap() -> Callable[..., Path]:
    """`write_idxmap`."""
    return write_idxmap


@pytest.fixture
def hugging_face() -> Callable[..., None]:
    """`write_hf`."""
    return write_hf


@pytest.fixture
def mcore() -> Callable[..., None]:
    """`write_mcore`."""
    return write_mcore


@pytest.fixture
def values() -> Callable[..., list[str]]:
    """25 right values, some of them changed: `values(TP="2")`."""

    def build(**changes: str) -> list[str]:
        right = dict(zip((position.name for position in POSITIONS), VALUES.split(), strict=True))
        assert set(changes) <= set(right)
        return list((right | changes).values())

    return build


@pytest.fixture
def surroundings(world: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """The environment of a start: the tokenizer named, no GPU even where there is one, working directory `world`."""
    monkeypatch.chdir(world)

    def build(**changes: str | None) -> dict[str, str]:
        wanted: dict[str, str | None] = {"MP_TOKENIZER_PATH": "tokenizer", "MP_DEVICE": "cpu", **changes}
        return {name: value for name, value in wanted.items() if value is not None}

    return build


@pytest.fixture
def plan_of(values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]) -> Callable[..., Plan]:
    """The plan of right values with changes: positions and MP_ variables, as in `plan_of(TP="2", MP_VP="1")`."""

    def build(**changes: str) -> Plan:
        environ = {name: changes.pop(name) for name in list(changes) if name not in {row.name for row in POSITIONS}}
        plan, _, problems = make_plan(values(**changes), surroundings(**environ), dry_run=True)
        assert plan is not None, problems
        return plan

    return build


@pytest.fixture
def plan_on_gpus(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Plan]:
    """A plan on so many GPUs of a name and size; positions and `MP_...` variables by name."""

    def plan(gpu: Mapping[str, object], **changes: str) -> Plan:
        one = Gpu(name=str(gpu["name"]), memory_bytes=int(str(gpu["gigabytes"])) * 10**9, uuid="GPU-1")
        monkeypatch.setattr("megatron_patch.launch.environment.installed_gpus", lambda: (one,) * int(str(gpu["gpus"])))
        typed = {name: value for name, value in changes.items() if not name.startswith("MP_")}
        variables = {"MP_DEVICE": "auto"} | {name: changes[name] for name in changes if name.startswith("MP_")}
        found, _, problems = make_plan(values(**typed), surroundings(**variables), dry_run=True)
        assert found is not None, problems
        return found

    return plan
