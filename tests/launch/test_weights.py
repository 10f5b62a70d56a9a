"""Which folder is which kind of checkpoint, and what is said about those that are none."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.checkpoint.contents import INDEX, SINGLE_FILE, is_complete, iterations
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import Plan, content_of
from megatron_patch.launch.weights import read_weights
from megatron_patch.models import model_from_hf_config, model_of_size
from megatron_patch.models.weight_map import hf_shapes
from megatron_patch.runs.folder import write_plan


def test_none_is_no_weights() -> None:
    assert read_weights("none").kind == "none"


def test_a_hugging_face_folder_is_known_by_its_config(world: Path) -> None:
    weights = read_weights(str(world / "hf-8B"))
    assert (weights.kind, weights.path, weights.step) == ("hf", str(world / "hf-8B"), None)
    assert weights.config is not None
    assert weights.config["num_hidden_layers"] == 32
    assert weights.homes == (str(world / "hf-8B"),)


def test_hugging_face_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert read_weights(str(tmp_path)).kind == "hf"


def test_a_megatron_checkpoint_is_found_from_every_spelling(
    world: Path, tmp_path: Path, mcore: Callable[..., None]
) -> None:
    parent = str(world / "mcore-tp4-pp2")
    for typed in (parent, f"{parent}/iter_0000001", f"{parent}/"):
        weights = read_weights(typed)
        assert (weights.kind, weights.path, weights.step) == ("mcore", parent, 1)
        assert weights.homes[0] == parent
    for typed in ("released", "released/release"):
        weights = read_weights(str(world / typed))
        assert (weights.path, weights.step) == (str(world / "released"), None)
    mcore(tmp_path / "zero", "0")  # --ckpt-step 0 counts as unset: the tracker has to say it
    assert read_weights(str(tmp_path / "zero" / "iter_0000000")).step is None


def test_adapters_are_no_weights(world: Path, tmp_path: Path, mcore: Callable[..., None]) -> None:
    """Neither a run's, which look like any checkpoint, nor PEFT's: Megatron would end in a stack trace."""
    mcore(tmp_path / "run", "7")
    (tmp_path / "run" / "lora.json").write_text("{}")
    peft = tmp_path / "adapter"
    peft.mkdir()
    (peft / "adapter_config.json").write_text("{}")
    (peft / "adapter_model.safetensors").write_bytes(b"x")
    for typed in (tmp_path / "run", tmp_path / "run" / "iter_0000007", peft):
        with pytest.raises(CheckpointError) as refused:
            read_weights(str(typed))
        assert refused.value.code == "checkpoint-adapters"
    (peft / "config.json").write_text("{}")
    (peft / "model.safetensors").write_bytes(b"x")  # a whole model, with an adapter beside it
    assert read_weights(str(peft)).kind == "hf"


def test_the_tracker_is_followed_but_not_needed(tmp_path: Path, mcore: Callable[..., None]) -> None:
    mcore(tmp_path, "7")
    mcore(tmp_path, "12")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    assert read_weights(str(tmp_path)).step == 7
    (tmp_path / "latest_checkpointed_iteration.txt").unlink()
    assert read_weights(str(tmp_path)).step == 12


def test_an_earlier_run(tmp_path: Path, mcore: Callable[..., None], plan_of: Callable[..., Plan]) -> None:
    """Its output folder stands for its checkpoints; architecture and tokenizer are those of its plan."""
    mcore(tmp_path / "checkpoints", "30")
    assert read_weights(str(tmp_path)).config is None
    plan = plan_of(MODEL_SIZE="1B")
    write_plan(tmp_path, content_of(plan))
    for typed in (tmp_path, tmp_path / "checkpoints"):
        weights = read_weights(str(typed))
        assert (weights.kind, weights.path, weights.step) == ("mcore", str(tmp_path / "checkpoints"), 30)
        assert weights.homes[-1] == plan.tokenizer.path
        assert weights.config is not None
        assert model_from_hf_config(weights.config, "1B", plan.model.source) == plan.model
    auto = plan_of(MODEL_SIZE="auto", PRETRAIN_CHECKPOINT_PATH=str(tmp_path), MP_TOKENIZER_PATH="")
    assert (auto.model.num_layers, auto.tokenizer) == (16, plan.tokenizer)
    (tmp_path / "plan.json").write_text("{}")
    damaged = read_weights(str(tmp_path))
    assert (damaged.step, damaged.config) == (30, None)


def hf_missing_shard(folder: Path, source: Path) -> None:
    shutil.copytree(source / "hf-tiny", folder, dirs_exist_ok=True)
    (folder / "model-00002-of-00002.safetensors").unlink()


def hf_without_weights(folder: Path, source: Path) -> None:
    (folder / "config.json").write_text("{}")


def hf_pickle(folder: Path, source: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")


def hf_without_config(folder: Path, source: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"x")


def hf_config_no_json(folder: Path, source: Path) -> None:
    (folder / "config.json").write_text("{")


def hf_index_of_nothing(folder: Path, source: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')


def hf_index_and_single(folder: Path, source: Path) -> None:
    shutil.copytree(source / "hf-tiny", folder, dirs_exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"x")


def mcore_cut(folder: Path, source: Path) -> None:
    shutil.copytree(source / "mcore-tp4-pp2", folder, dirs_exist_ok=True)
    (folder / "iter_0000001" / "metadata.json").write_text('{"sharded_ba')


def mcore_elsewhere(folder: Path, source: Path) -> None:
    shutil.copytree(source / "mcore-tp4-pp2", folder, dirs_exist_ok=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("2")


def mcore_bad_tracker(folder: Path, source: Path) -> None:
    shutil.copytree(source / "mcore-tp4-pp2" / "iter_0000001", folder / "iter_0000000")
    (folder / "latest_checkpointed_iteration.txt").write_text("")


def mcore_old_format(folder: Path, source: Path) -> None:
    (folder / "iter_0000005" / "mp_rank_00").mkdir(parents=True)
    (folder / "iter_0000005" / "mp_rank_00" / "model_optim_rng.pt").write_bytes(b"x")
    (folder / "latest_checkpointed_iteration.txt").write_text("5")


def mcore_of_another_backend(folder: Path, source: Path) -> None:
    shutil.copytree(source / "mcore-tp4-pp2", folder, dirs_exist_ok=True)
    (folder / "iter_0000001" / "metadata.json").write_text('{"sharded_backend": "fsdp_dtensor"}')


def nemo_2(folder: Path, source: Path) -> None:
    (folder / "context").mkdir()
    shutil.copytree(source / "mcore-tp4-pp2" / "iter_0000001", folder / "weights")


def mcore_renamed(folder: Path, source: Path) -> None:
    shutil.copytree(source / "mcore-tp4-pp2" / "iter_0000001", folder, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("make", "code", "told"),
    [
        (hf_missing_shard, "shards-missing", {"missing": 1, "shards": 2}),
        (hf_without_weights, "config-without-weights", {}),
        (hf_pickle, "config-and-pickles", {}),
        (hf_without_config, "config-missing", {}),
        (hf_config_no_json, "config-not-json", {}),
        (hf_index_of_nothing, "index-names-no-shard", {}),
        (hf_index_and_single, "index-beside-single", {}),
        (mcore_cut, "tracker-unfinished", {}),
        (mcore_elsewhere, "tracker-absent", {"folder": "iter_0000002", "others": ["1"]}),
        (mcore_bad_tracker, "tracker-wrong", {"pointed": "''"}),
        (mcore_old_format, "checkpoint-per-rank", {}),
        (mcore_of_another_backend, "checkpoint-backend", {"backend": "'fsdp_dtensor'"}),
        (nemo_2, "checkpoint-nemo", {}),
        (mcore_renamed, "checkpoint-name", {}),
    ],
)
def test_what_is_wrong_is_said(
    make: Callable[[Path, Path], None], code: str, told: dict[str, object], world: Path, tmp_path: Path
) -> None:
    make(tmp_path, world)
    with pytest.raises(CheckpointError) as error:
        read_weights(str(tmp_path))
    (message,) = error.value.messages
    assert error.value.code == code, message
    assert message.told.values == message.told.values | told


def test_what_people_type_in_the_place_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NeMo's archive, the weights inside of NeMo 2's folder, a name of the hub; a folder below may have such a name."""
    monkeypatch.chdir(tmp_path)
    Path("llama.nemo").touch()
    Path("run/context").mkdir(parents=True)
    Path("run/weights").mkdir()
    codes = {
        "llama.nemo": "file-of-nemo",
        "run/weights": "checkpoint-nemo",
        "meta-llama/Llama-3.1-8B": "no-such-folder-hub",
        "./meta-llama/Llama-3.1-8B": "no-such-folder",
        "/no/such": "no-such-folder",
        "run/context": "no-checkpoint-empty",
    }
    for typed, code in codes.items():
        with pytest.raises(CheckpointError) as error:
            read_weights(typed)
        assert error.value.code == code, typed


def test_complete_is_what_megatron_finished(tmp_path: Path, mcore: Callable[..., None]) -> None:
    """Each of the three files that a killed save leaves out makes a checkpoint incomplete."""
    mcore(tmp_path, "3")
    folder = tmp_path / "iter_0000003"
    assert is_complete(folder)
    assert not is_complete(tmp_path / "iter_0000004")
    for name in ("metadata.json", ".metadata", "__0_0.distcp"):
        hidden = (folder / name).rename(tmp_path / "hidden")
        assert not is_complete(folder)
        hidden.rename(folder / name)
    assert is_complete(folder)
    (folder / "metadata.json").write_text(json.dumps({"other": 1}))
    assert not is_complete(folder)


def test_iterations_are_those_that_megatron_names(tmp_path: Path) -> None:
    for name in ("iter_0000010", "iter_0000002", "iter_12", "iter_0000003.old", ".incomplete_iter_0000011", "release"):
        (tmp_path / name).mkdir()
    assert iterations(tmp_path) == [2, 10]
    assert iterations(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "phi3"}, {"model_type"}),
        ({"model_type": "mixtral", "num_local_experts": 8}, {"model_type", "num_local_experts"}),
        ({"model_type": "qwen3_moe", "num_experts": 128}, {"model_type", "num_experts"}),
        (
            {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096},
            {"sliding_window"},
        ),
        ({"hidden_act": "gelu", "rope_theta": "x"}, {"hidden_act", "rope_theta"}),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, {"rope_scaling"}),
    ],
)
@pytest.mark.parametrize("size", ["auto", "8B"])
def test_what_is_not_trained_here_is_refused(
    size: str,
    changes: dict[str, object],
    named: set[str],
    hugging_face: Callable[..., None],
    tmp_path: Path,
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
) -> None:
    """In the plan, by the key of config.json; not on a rank, 14 s later. Neither size sends people to the other."""
    hugging_face(tmp_path / "hf", "8B", **changes)
    typed = values(MODEL_SIZE=size, PRETRAIN_CHECKPOINT_PATH=str(tmp_path / "hf"))
    plan, _, problems = make_plan(typed, surroundings(), dry_run=True)
    assert plan is None and {problem.code for problem in problems} == {"config-refused"}
    found = [str(problem.message.values["what"]) for problem in problems if problem.code == "config-refused"]
    assert {line.removeprefix(f"{tmp_path}/hf/config.json: ").split()[0] for line in found} == named


def test_added_tokens_are_more_vocabulary(
    hugging_face: Callable[..., None], tmp_path: Path, plan_of: Callable[..., Plan]
) -> None:
    """A named size starts from a checkpoint with more rows than it has, and trains all of them."""
    hugging_face(tmp_path / "hf", "8B", vocab_size=128300)
    plan = plan_of(MODEL_SIZE="8B", PRETRAIN_CHECKPOINT_PATH=str(tmp_path / "hf"))
    assert (plan.model.name, plan.vocab_size, plan.vocab_rows) == ("8B", 128300, 128384)


def test_dropout_is_refused_where_a_run_begins(
    hugging_face: Callable[..., None],
    tmp_path: Path,
    mcore: Callable[..., None],
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    plan_of: Callable[..., Plan],
) -> None:
    """Training has none; a run that began before this was asked goes on."""
    hugging_face(tmp_path / "hf", "8B", attention_dropout=0.1, resid_pdrop=0.2)
    changes = {"MODEL_SIZE": "8B", "PRETRAIN_CHECKPOINT_PATH": str(tmp_path / "hf"), "OUTPUT_BASEPATH": str(tmp_path)}
    _, _, problems = make_plan(values(**changes), surroundings(), dry_run=True)
    assert [(one.code, one.message.values["key"]) for one in problems] == [
        ("dropout", "attention_dropout"), ("dropout", "resid_pdrop"),
    ]  # fmt: skip
    mcore(tmp_path / "checkpoints", "7")
    assert plan_of(**changes).resume_iteration == 7


def without_a_tensor(header: dict[str, Any]) -> None:
    del header["model.layers.1.mlp.up_proj.weight"]


def with_a_bias(header: dict[str, Any]) -> None:
    header["model.layers.1.self_attn.q_proj.bias"] = {"dtype": "BF16", "shape": [256], "data_offsets": [0, 0]}


def in_fp8(header: dict[str, Any]) -> None:
    header["model.layers.1.mlp.up_proj.weight"]["dtype"] = "F8_E4M3"


def of_another_width(header: dict[str, Any]) -> None:
    header["model.layers.1.mlp.up_proj.weight"]["shape"].reverse()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_a_tensor, "model.layers.1.mlp.up_proj.weight is missing"),
        (with_a_bias, "model.layers.1.self_attn.q_proj.bias is not a weight of this architecture"),
        (in_fp8, "element type F8_E4M3"),
        (of_another_width, "config.json means"),
    ],
)
def test_tensors_of_a_hugging_face_folder_are_looked_at_before_the_start(
    damage: Callable[[dict[str, Any]], None],
    said: str,
    hugging_face: Callable[..., None],
    tmp_path: Path,
    mcore: Callable[..., None],
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    plan_of: Callable[..., Plan],
) -> None:
    """By a dry run already; a run that goes on from its own checkpoint does not read the folder."""
    hugging_face(tmp_path / "hf", "tiny")
    (tmp_path / "hf" / INDEX).unlink()
    for shard in (tmp_path / "hf").glob("*.safetensors"):
        shard.unlink()
    shapes = hf_shapes(model_of_size("tiny"), 258)
    header = {name: {"dtype": "BF16", "shape": list(shape)} for name, shape in shapes.items()}
    damage(header)
    end = 0
    for entry in header.values():
        begin, end = end, end + math.prod(entry["shape"]) * (1 if entry["dtype"] == "F8_E4M3" else 2)
        entry["data_offsets"] = [begin, end]
    text = json.dumps(header).encode()
    (tmp_path / "hf" / SINGLE_FILE).write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(tmp_path / "hf" / SINGLE_FILE, 8 + len(text) + end)
    changes = {"PRETRAIN_CHECKPOINT_PATH": str(tmp_path / "hf"), "OUTPUT_BASEPATH": str(tmp_path / "run")}
    _, _, problems = make_plan(values(**changes), surroundings(), dry_run=True)
    assert [problem.code for problem in problems] == ["hf-weights"]
    assert problems[0].names == ("PRETRAIN_CHECKPOINT_PATH",) and said in str(problems[0])
    mcore(tmp_path / "run" / "checkpoints", "7")
    assert plan_of(**changes).resume_iteration == 7
