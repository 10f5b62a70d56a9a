"""However a tokenizer folder is written, our ids are `AutoTokenizer`'s: folders from a seed, each compared."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.data.sft.chat_tokenizer import load_chat_tokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.tokenizers.text_tokenizer import load_tokenizer
from megatron_patch.launch.inputs import read_tokenizer

Files = dict[str, Any]
"""The JSON of each file of a folder, by name."""
EOT = "<|eot_id|>"
TEXTS = (
    "plain text", " a <mine> b", "a<mine>b", f"x {EOT}  y", f"{EOT}", "<other>\n<other> <more>", "word<mine>s 12",
    "  <|reserved_special_token_5|>  ", "<pad!> <new_bos>x", "naïve <mine>\u3000北京", "def f(x):\n    return x",
    "e\u0301 2026 1234567",
)  # fmt: skip


def entry(state: random.Random, content: str, **fixed: bool) -> dict[str, Any]:
    flags = {name: state.random() < 0.4 for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}
    return {"content": content, **flags, **fixed}


def in_tokenizer_json(state: random.Random, files: Files) -> None:
    if any(token["content"] == "<mine>" for token in files["tokenizer.json"]["added_tokens"]):
        return
    free = max(token["id"] for token in files["tokenizer.json"]["added_tokens"]) + 1
    files["tokenizer.json"]["added_tokens"].append({"id": free, **entry(state, "<mine>")})


def flags_in_tokenizer_json(state: random.Random, files: Files) -> None:
    token = state.choice(files["tokenizer.json"]["added_tokens"])
    token[state.choice(("lstrip", "rstrip", "single_word", "special"))] ^= True


def flags_in_config(state: random.Random, files: Files) -> None:
    if decoder := files["tokenizer_config.json"].get("added_tokens_decoder"):
        token = decoder[state.choice(list(decoder))]
        token[state.choice(("lstrip", "rstrip", "single_word", "special"))] ^= True


def new_in_decoder(state: random.Random, files: Files) -> None:
    if decoder := files["tokenizer_config.json"].get("added_tokens_decoder"):
        decoder[str(max(map(int, decoder)) + 1)] = entry(state, "<mine>")


def no_decoder(_: random.Random, files: Files) -> None:
    files["tokenizer_config.json"].pop("added_tokens_decoder", None)


def extra_list(state: random.Random, files: Files) -> None:
    key = state.choice(("extra_special_tokens", "additional_special_tokens"))
    files["tokenizer_config.json"][key] = state.choice((["<mine>", "<other>"], [EOT], []))


def extra_names(state: random.Random, files: Files) -> None:
    files["tokenizer_config.json"]["extra_special_tokens"] = {"image_token": state.choice(("<mine>", EOT))}


def own_name(state: random.Random, files: Files) -> None:
    files["tokenizer_config.json"]["image_token"] = state.choice(("<other>", EOT))


def new_pad(state: random.Random, files: Files) -> None:
    files["tokenizer_config.json"]["pad_token"] = state.choice(("<pad!>", EOT, entry(state, "<pad!>", special=True)))
    if isinstance(files["tokenizer_config.json"]["pad_token"], dict):
        files["tokenizer_config.json"]["pad_token"]["__type"] = "AddedToken"


def older_map(state: random.Random, files: Files) -> None:
    older = {"additional_special_tokens": ["<more>"], "bos_token": entry(state, "<new_bos>", special=True)}
    files["special_tokens_map.json"] = {key: older[key] for key in older if state.random() < 0.7}


def older_added(state: random.Random, files: Files) -> None:
    free = max(token["id"] for token in files["tokenizer.json"]["added_tokens"]) + 1
    files["added_tokens.json"] = state.choice(({"<mine>": free, "<other>": free + 1}, {"<other>": free}))


def setting(state: random.Random, files: Files) -> None:
    key = state.choice(("split_special_tokens", "add_bos_token", "add_eos_token", "legacy", "add_prefix_space"))
    files["tokenizer_config.json"][key] = state.random() < 0.6


def other_class(state: random.Random, files: Files) -> None:
    files["tokenizer_config.json"]["tokenizer_class"] = state.choice(
        ("TokenizersBackend", "GPT2TokenizerFast", "LlamaTokenizerFast", "LlamaTokenizer", "Qwen2Tokenizer", "Nobody")
    )


def beside_a_model(state: random.Random, files: Files) -> None:
    files["config.json"] = {
        "model_type": state.choice(("llama", "qwen2", "qwen3", "mistral", "gpt2", "phi3", "gemma3_text"))
    }


CHANGES: tuple[Callable[[random.Random, Files], None], ...] = (
    in_tokenizer_json, flags_in_tokenizer_json, flags_in_config, new_in_decoder, no_decoder, extra_list, extra_names,
    own_name, new_pad, older_map, older_added, setting, other_class, beside_a_model,
)  # fmt: skip


def build(seed: int, original: Path, folder: Path) -> list[str]:
    """A folder with one to three changes, every second one written as the hub's cache is; the changes' names."""
    state = random.Random(seed)
    files: Files = {path.name: json.loads(path.read_text()) for path in original.glob("*.json")}
    changes = [CHANGES[seed % len(CHANGES)], *state.sample(CHANGES, state.randint(0, 2))]
    for change in changes:
        change(state, files)
    if seed % 2:
        _as_the_hubs_cache(files, folder)
    else:
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
    return [change.__name__ for change in changes]


def _as_the_hubs_cache(files: Files, snapshot: Path) -> None:
    blobs = snapshot.parent / f"blobs-{snapshot.name}"
    blobs.mkdir()
    for number, (name, content) in enumerate(files.items()):
        (blobs / f"{number:040x}").write_text(json.dumps(content))
        (snapshot / name).symlink_to(Path("..") / blobs.name / f"{number:040x}")


def compare(seed: int, original: Path, folder: Path) -> str:
    """See that both read the folder alike; returns how ours was loaded, or that both refuse it."""
    from transformers import AutoTokenizer

    changes = build(seed, original, folder)
    try:
        theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        with pytest.raises(ValueError):
            load_tokenizer(folder)
        return f"refused: {error}"
    ours = load_tokenizer(folder)
    about = f"seed {seed}: {', '.join(changes)}; {ours.note}"
    assert ours.encode(list(TEXTS)) == [theirs(text).input_ids for text in TEXTS], about
    assert (ours.vocab_size, dict(ours.named_tokens)) == (len(theirs), theirs.special_tokens_map), about
    chat = load_chat_tokenizer(folder).backend
    bare = [theirs(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert [row.ids for row in chat.encode_batch(list(TEXTS), add_special_tokens=False)] == bare, about
    read = read_tokenizer(str(folder))
    ids = max(theirs.get_vocab().values()) + 1
    # Classes that build the tokenizer anew leave out tokens that stand in tokenizer.json alone.
    note = str(ours.note)
    rebuilt = "tokenizer_class" in note or "qwen2" in note
    assert read.ids == ids or (rebuilt and read.ids > ids), about
    assert read.path == str(folder), about
    return note


@pytest.mark.parametrize("part", range(4))
def test_ids_are_autotokenizers(part: int, tokenizer_folder: Path, tmp_path: Path) -> None:
    notes = []
    for seed in range(part * 28, part * 28 + 28):
        (tmp_path / str(seed)).mkdir()
        notes.append(compare(seed, tokenizer_folder, tmp_path / str(seed)))
    assert any(note == "tokenizer.json as it is" for note in notes)
    assert any(note.startswith("through transformers") for note in notes)


def test_a_folder_of_links_stays_the_folder(tokenizer_folder: Path, tmp_path: Path) -> None:
    """The hub's cache: the blob has neither the file's name nor its neighbours."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    for number, path in enumerate(sorted(tokenizer_folder.iterdir())):
        shutil.copyfile(path, tmp_path / "models--a--b" / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert read_tokenizer(str(snapshot)).path == str(snapshot)
    (tmp_path / "main").symlink_to(snapshot)
    assert read_tokenizer(str(tmp_path / "main")).path == str(tmp_path / "main")
    assert str(load_tokenizer(snapshot).note) == "tokenizer.json as it is"


def test_where_transformers_differs_from_tokenizer_json_it_is_said(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Beside a config.json of Qwen2, transformers 5 cuts text in Qwen2's way, whatever tokenizer.json says."""
    from transformers import AutoTokenizer

    folder = tmp_path / "distilled"
    shutil.copytree(tokenizer_folder, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert (
        ours.encode(["e\u0301"])
        == [theirs("e\u0301").input_ids]
        != load_tokenizer(tokenizer_folder).encode(["e\u0301"])
    )
    said = "transformers' Qwen2Tokenizer gives other ids than tokenizer.json by itself ('"
    assert said in str(ours.note) and said in str(Encoder(load_chat_tokenizer(folder), "hf").note)
    assert read_tokenizer(str(folder)).ids == len(theirs) == len(AutoTokenizer.from_pretrained(tokenizer_folder)) + 1
