"""MP_LORA_... and MP_FREEZE: refused before torch is imported where they are wrong; planned, trained and exported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.build_plan import adapters_of
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.layout import Layout
from megatron_patch.launch.memory import GPU_RESERVE_BYTES, Load, Precision, estimate
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.problems import Problem, driver_wording
from megatron_patch.launch.render import short_plan
from megatron_patch.models import model_of_size
from megatron_patch.peft.settings import LoraSettings

from ..trainer import driver
from ..trainer.driver import write_word_tokenizer
from ..trainer.harness import read_metrics
from .world import RANK, World, make_adapter


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_tokenizer(tmp_path_factory.mktemp("tokenizer"), 256)


def values(world: World, output: Path, **changed: object) -> list[str]:
    told: dict[str, object] = {
        "env": "dsw", "size": "auto", "micro": 2, "batch": 8, "lr": 1e-3, "min_lr": 1e-4, "seq": 64, "pad": 64,
        "pr": "fp32", "tp": 1, "pp": 1, "cp": 1, "sp": "false", "do": "true", "fl": "true", "sft": "false",
        "ac": "false", "offload": "false", "save": 4, "data": world.data, "valid": "none", "start": world.hf,
        "train": 8 * 8 * 64, "warmup": 64 * 8, "output": output,
    }  # fmt: skip
    return [str(value) for value in (told | changed).values()]


def render_plan(made: Plan | list[Problem]) -> str:
    assert isinstance(made, Plan)
    return short_plan(made, driver_wording())


def plan(world: World, output: Path, tokenizer: Path, mp: dict[str, str], **changed: object) -> Plan | list[Problem]:
    environ = {"MP_TOKENIZER_PATH": str(tokenizer), "MP_DEVICE": "cpu", "HOME": "/", **mp}
    made, _, problems = make_plan(values(world, output, **changed), environ, dry_run=True)
    return made or problems


@pytest.mark.parametrize(
    ("mp", "changed", "code", "name"),
    [
        ({"MP_LORA_RANK": "0"}, {}, "out-of-range", "MP_LORA_RANK"),
        ({"MP_LORA_RANK": "8", "MP_LORA_TARGETS": "q,w"}, {}, "lora-target", "MP_LORA_TARGETS"),
        ({"MP_LORA_ALPHA": "8"}, {}, "lora-without-rank", "MP_LORA_ALPHA"),
        ({"MP_LORA_RANK_PATTERN": '{"q_proj": 8}'}, {}, "lora-without-rank", "MP_LORA_RANK_PATTERN"),
        ({"MP_LORA_RANK": "8", "MP_LORA_RANK_PATTERN": "q_proj=8"}, {}, "json-syntax", "MP_LORA_RANK_PATTERN"),
        (
            {"MP_LORA_RANK": "8", "MP_LORA_RANK_PATTERN": '{"q_proj": 1.5}'},
            {},
            "peft-pattern-whole",
            "MP_LORA_RANK_PATTERN",
        ),
        (
            {"MP_LORA_RANK": "8", "MP_LORA_ALPHA_PATTERN": '{"q_proj": 0}'},
            {},
            "peft-pattern-real",
            "MP_LORA_ALPHA_PATTERN",
        ),
        ({"MP_LORA_RANK": "8", "MP_LORA_RANK_PATTERN": '{"(q": 8}'}, {}, "peft-pattern-key", "MP_LORA_RANK_PATTERN"),
        (
            {"MP_LORA_RANK": "8", "MP_LORA_RANK_PATTERN": '{"layers.4.*": 8}'},
            {},
            "lora-pattern-idle",
            "MP_LORA_RANK_PATTERN",
        ),
        (
            {"MP_LORA_RANK": "8", "MP_LORA_RANK_PATTERN": '{"q_proj": 8, "layers.0.self_attn.q_proj": 4}'},
            {},
            "lora-pattern-late",
            "MP_LORA_RANK_PATTERN",
        ),
        ({"MP_LORA_RANK": "8"}, {"start": "none", "size": "tiny"}, "lora-base", "PRETRAIN_CHECKPOINT_PATH"),
        ({"MP_LORA_RANK": "8"}, {"tp": 4}, "lora-kv-heads", "TP"),
        ({"MP_LORA_RANK": "8", "MP_LORA_ADAPTER": "/nowhere"}, {}, "lora-adapter", "MP_LORA_ADAPTER"),
        ({"MP_LORA_ADAPTER": "/nowhere"}, {}, "lora-adapter", "MP_LORA_ADAPTER"),
        ({"MP_LORA_ADAPTER": "ITS"}, {"start": "none", "size": "tiny"}, "lora-base", "PRETRAIN_CHECKPOINT_PATH"),
        ({"MP_LORA_RANK": "8", "MP_LORA_ADAPTER": "ITS"}, {}, "lora-adapter-differs", "MP_LORA_RANK"),
        ({"MP_LORA_ADAPTER": "ITS"}, {"start": "none", "size": "tiny"}, "lora-adapter-model", "MP_LORA_ADAPTER"),
        ({"MP_LORA_ADAPTER": "RUN"}, {}, "lora-adapter-inside", "MP_LORA_ADAPTER"),
        ({"MP_LORA_ADAPTER": "SOME"}, {}, "lora-adapter-model", "MP_LORA_ADAPTER"),
        ({"MP_FREEZE": "head"}, {"start": "none", "size": "1B"}, "freeze-tied", "MP_FREEZE"),
        ({"MP_FREEZE": "embedding"}, {"start": "none", "size": "1B", "pp": 2}, "freeze-tied", "MP_FREEZE"),
        ({"MP_LORA_RANK": "8", "MP_FREEZE": "head"}, {}, "freeze-and-lora", "MP_FREEZE"),
        ({"MP_FREEZE": "layers.2-4"}, {}, "freeze-word", "MP_FREEZE"),
        ({"MP_FREEZE": "tail"}, {}, "freeze-word", "MP_FREEZE"),
        ({"MP_FREEZE": "embedding,layers.0-1"}, {"pp": 2}, "freeze-stage", "MP_FREEZE"),
        ({"MP_FREEZE": "embedding, head, norms, layers.0-3"}, {}, "freeze-stage", "MP_FREEZE"),
        ({"MP_FREEZE": "embedding,layers.0,layers.2", "MP_VP": "1"}, {"pp": 2}, "freeze-stage", "MP_FREEZE"),
        ({"MP_FREEZE": "layers.0"}, {"do": "false"}, "freeze-needs-do", "MP_FREEZE"),
    ],
)
def test_what_adapters_and_freezing_cannot_do_is_refused_by_code(
    world: World, tmp_path: Path, tokenizer: Path, mp: dict[str, str], changed: dict[str, object], code: str, name: str
) -> None:
    (tmp_path / "adapter").symlink_to(world.adapter)
    places = {"ITS": str(world.adapter), "RUN": str(tmp_path), "SOME": str(tmp_path / "some")}
    if mp.get("MP_LORA_ADAPTER") == "SOME":
        make_adapter(tmp_path / "some", world.hf, target_modules=["q_proj"], layers_to_transform=[0])
    mp = {key: places.get(value, value) for key, value in mp.items()}
    problems = plan(world, tmp_path / "out", tokenizer, mp, **changed)
    assert isinstance(problems, list), "not refused"
    found = [(problem.message.code, problem.names[0]) for problem in problems]
    assert (code, name) in found, found


def test_ranks_beyond_their_matrix_are_noted(world: World, tmp_path: Path, tokenizer: Path) -> None:
    """PEFT takes them, and so do we: K is 32 x 64, so that rank 33 is one too many there."""
    mp = {"MP_LORA_RANK": "33", "MP_LORA_RANK_PATTERN": '{"layers.2.mlp.up_proj": 65, "v_proj": 32}'}
    made = plan(world, tmp_path / "out", tokenizer, mp)
    assert isinstance(made, Plan)
    (note,) = [note for note in made.notes if note.code == "rank-beyond"]
    assert [one.values for one in note.values["matrices"]] == [
        {"target": "k", "rank": 33, "rows": 32, "columns": 64},
        {"target": "up", "rank": 65, "rows": 128, "columns": 64},
    ]
    fitting = plan(world, tmp_path / "out", tokenizer, {"MP_LORA_RANK": "32"})
    assert isinstance(fitting, Plan) and "rank-beyond" not in {note.code for note in fitting.notes}


@pytest.mark.parametrize("pattern", [False, True])
def test_adapters_larger_than_memory_are_refused(world: World, tmp_path: Path, tokenizer: Path, pattern: bool) -> None:
    environ = {"MP_TOKENIZER_PATH": str(tokenizer), "MP_DEVICE": "cpu", "HOME": "/"}
    most = str(10**18 - 1)
    asked = {"MP_LORA_RANK": most}
    if pattern:
        asked = {"MP_LORA_RANK": "8", "MP_LORA_RANK_PATTERN": f'{{"layers.0.mlp.up_proj": {most}}}'}
    _, _, problems = make_plan(values(world, tmp_path / "out"), environ | asked, dry_run=False)
    assert [(problem.code, problem.names) for problem in problems] == [("memory-cpu", tuple(asked))]
    assert render_plan(plan(world, tmp_path / "out", tokenizer, asked))


def test_an_adapter_brings_its_settings(world: World, tmp_path: Path, tokenizer: Path) -> None:
    """Rank, alpha, targets and rslora of adapter_config.json reach the trainer; what contradicts them is refused."""
    theirs = tmp_path / "theirs"
    shutil.copytree(world.adapter, theirs)
    config = json.loads((theirs / "adapter_config.json").read_text())
    config |= {"target_modules": ["v_proj", "q_proj"], "use_rslora": True, "lora_alpha": 12, "lora_dropout": 0.25}
    config |= {"base_model_name_or_path": "somebody/another"}
    (theirs / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(theirs / "adapter_model.safetensors")
    left = {name: tensor for name, tensor in weights.items() if "v_proj" in name or "q_proj" in name}
    save_file(left, theirs / "adapter_model.safetensors")
    config |= {"alpha_pattern": {"v_proj": 3}}
    (theirs / "adapter_config.json").write_text(json.dumps(config))
    adapter = {"MP_LORA_ADAPTER": str(theirs)}
    given = {"MP_LORA_RANK": str(RANK), "MP_LORA_ALPHA": "12", "MP_LORA_TARGETS": "v,q", "MP_LORA_RSLORA": "1"}
    given |= {"MP_LORA_ALPHA_PATTERN": '{"v_proj":3}'}
    alone = plan(world, tmp_path / "out", tokenizer, adapter)
    spelled = plan(world, tmp_path / "out", tokenizer, adapter | given)
    assert isinstance(alone, Plan) and isinstance(spelled, Plan)
    its = LoraSettings(rank=RANK, alpha=12, targets=("q", "v"), rslora=True, alpha_pattern=(("v_proj", 3),))
    assert adapters_of(alone.variables) == its
    assert megatron_argv(alone) == megatron_argv(spelled)
    notes = {note.code: note.values for note in alone.notes if note.code.startswith("adapter")}
    assert [str(one) for one in notes["adapter-brings"]["settings"]] == [
        f"MP_LORA_RANK={RANK}", "MP_LORA_ALPHA=12.0", "MP_LORA_TARGETS=q,v", "MP_LORA_RSLORA=true",
        'MP_LORA_ALPHA_PATTERN={"v_proj": 3}',
    ]  # fmt: skip
    (named,) = [note.values["told"] for note in alone.notes if note.code == "peft-other-base"]
    assert named == "somebody/another"
    assert notes["adapter-dropout"] == {"theirs": "0.25", "mine": "0.0"}
    assert "adapter-brings" not in {note.code for note in spelled.notes}
    others = {"MP_LORA_RANK": "8", "MP_LORA_ALPHA": "8", "MP_LORA_TARGETS": "all-linear", "MP_LORA_RSLORA": "0"}
    others |= {"MP_LORA_RANK_PATTERN": '{"v_proj": 3}', "MP_LORA_ALPHA_PATTERN": '{"v_proj": 4}'}
    problems = plan(world, tmp_path / "out", tokenizer, adapter | others)
    assert isinstance(problems, list)
    assert [(one.code, one.names) for one in problems] == [
        ("lora-adapter-differs", (name, "MP_LORA_ADAPTER")) for name in others
    ]


def test_the_plan_counts_no_state_of_frozen_weights(world: World, tmp_path: Path, tokenizer: Path) -> None:
    ranks = {"MP_LORA_RANK": "8", "MP_LORA_RANK_PATTERN": '{"layers\\\\.[0-2].*": 4, "layers.3.*": 4}'}
    given = ({}, {"MP_LORA_RANK": "4"}, {"MP_FREEZE": "layers.0-1"}, ranks)
    full, lora, frozen, each = (plan(world, tmp_path / "out", tokenizer, mp) for mp in given)
    assert isinstance(full, Plan) and isinstance(lora, Plan) and isinstance(frozen, Plan)
    widths = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64)}
    widths |= {"gate": (128, 64), "up": (128, 64), "down": (64, 128)}
    adapters = 4 * 4 * sum(map(sum, widths.values()))
    assert lora.memory.gradients == 4 * adapters and lora.memory.optimizer == 8 * adapters
    assert isinstance(each, Plan) and each.memory == lora.memory
    assert lora.memory.weights == full.memory.weights + 4 * adapters
    assert lora.checkpoint_bytes == 12 * adapters < full.checkpoint_bytes / 5
    layers = 2 * full.model.parameters_per_layer()
    assert full.memory.gradients - frozen.memory.gradients == 4 * layers


def test_a_stage_whose_chunks_alternate_with_others_is_not_taken_for_frozen(
    world: World, tmp_path: Path, tokenizer: Path
) -> None:
    made = plan(world, tmp_path / "out", tokenizer, {"MP_FREEZE": "embedding,layers.0-1", "MP_VP": "1"}, pp=2)
    assert isinstance(made, Plan) and [made.layout.layers_of(stage) for stage in (0, 1)] == [[0, 2], [1, 3]]


def planned_bytes(
    size: str, *, tp: int = 1, recompute: str = "none", layers: int | None = None, micro: int = 1, fp8: bool = False
) -> int:
    """bf16, 4096 tokens, rank 16 on all matrices, on GPUs."""
    model = model_of_size(size)
    model = replace(model, num_layers=layers or model.num_layers)
    layout = Layout(
        nodes=1, processes=tp, tp=tp, pp=1, chunks=1, cp=1, dp=1,
        sequence_parallel=tp > 1, stage_layers=(model.num_layers,), ends_count=False,
    )  # fmt: skip
    load = Load(
        model=model,
        vocab_rows=128256,
        layout=layout,
        precision=Precision(weight=2, gradient=2, activation=2, fp8=fp8),
        micro_batch=micro,
        seq_len=4096,
        micro_batches=16,
        distributed_optimizer=True,
        recompute=recompute,
        adapters=LoraSettings(rank=16, alpha=32),
    )
    return estimate(load).total


def test_what_fits_by_the_plan() -> None:
    """8B on a card of 24 GB with recomputation, 70B on four of 80 GB; and what an H100 (suite `lora`) and
    an H200 (`lora-full`) measured."""
    assert planned_bytes("8B", recompute="full") + GPU_RESERVE_BYTES <= 24 << 30
    assert planned_bytes("70B", tp=4) + GPU_RESERVE_BYTES <= 80e9
    assert planned_bytes("8B", layers=4, micro=2) == pytest.approx(10.86e9, rel=0.02)
    assert planned_bytes("8B", layers=4, micro=2, fp8=True) == pytest.approx(11.13e9, rel=0.02)
    assert planned_bytes("8B", micro=2) == pytest.approx(55.4e9, rel=0.02)
    assert planned_bytes("8B", micro=2, fp8=True) == pytest.approx(57.5e9, rel=0.02)
    assert planned_bytes("8B", micro=3, fp8=True) == pytest.approx(77.8e9, rel=0.02)


def test_a_run_and_its_adapter_in_peft(world: World, tmp_path: Path, tokenizer: Path) -> None:
    """The driver with MP_LORA_RANK and MP_EXPORT_HF: new adapters, exported, learned something."""
    output = tmp_path / "out"
    variables = {"MP_LORA_RANK": "4", "MP_LORA_TARGETS": "q,v,down", "MP_EXPORT_HF": "1", "MP_DEVICE": "cpu"}
    variables |= {"MP_TOKENIZER_PATH": str(tokenizer)}
    driver.train(values(world, output, lr=2e-2, min_lr=1e-3), warm=tmp_path / "screen", **variables)
    losses = [record["loss"] for record in read_metrics(output) if "loss" in record]
    base = AutoModelForCausalLM.from_pretrained(world.hf, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, output / "adapter")
    tokens = torch.arange(64).view(1, 64) * 2 % 254
    with torch.no_grad(), model.disable_adapter():
        before = model(tokens, labels=tokens).loss
    with torch.no_grad():
        after = model(tokens, labels=tokens).loss
    assert losses[-1] < losses[0] and after < before
