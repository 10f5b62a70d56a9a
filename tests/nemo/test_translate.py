"""Named flags become the plan of the 25 values that say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import values_of
from megatron_patch.nemo.command_line import parse
from megatron_patch.nemo.translate import FINETUNE, PRETRAIN, Translation, translate

TINY = "--hf_model_id tokenizer -M tiny --dataset_path data -s 128 -g 8 --max_steps 10 --warmup_steps 1"


def asked_for(command: str, stage: str = PRETRAIN, **environ: str) -> Translation:
    """A command line, translated; no problem in it."""
    line = parse(command.split())
    asked = Translation(given=line.given, environ={"DRY_RUN": "1", **environ}, stage=stage)
    translate(asked)
    assert not line.problems + asked.problems
    return asked


SAME = {
    "plain": (
        f"{TINY} --lr 1e-3 --min_lr 1e-4",
        {},
        "dsw tiny 1 8 1e-3 1e-4 128 128 bf16 1 1 1 false true true false false false "
        "500 data none none 10240 1024 experiments/pretraining",
    ),
    "parallel": (
        f"{TINY} -T 2 -PP 2 -SP -VPP 2 -E job --lr 1e-3 --min_lr 0 --precision fp32 --save_interval 5 --num_gpus 4",
        {"MP_VP_CHUNKS": "2", "MP_NPROC": "4"},
        "dsw tiny 1 8 1e-3 0 128 128 fp32 2 2 1 true true true false false false "
        "5 data none none 10240 1024 experiments/job",
    ),
    "recompute": (
        f"{TINY} --recompute-granularity full --recompute-method block --recompute-num-layers 2 --fp8 -G 1",
        {"MP_AC_METHOD": "block", "MP_AC_LAYERS": "2", "MP_DEVICE": "cuda", "MP_NPROC": "1"},
        "dsw tiny 1 8 1e-5 1e-6 128 128 fp8 1 1 1 false true true false full false "
        "500 data none none 10240 1024 experiments/pretraining",
    ),
    "offload": (
        f"{TINY} --cpu-offloading --cpu-offloading-layers 3 --cpu-offloading-activations --split 80,10,10 "
        "--optim-cpu-offloading --optim-cpu-offloading-frac 0.5 --num-gpus 1",
        {"MP_AC_LAYERS": "3", "MP_OPTIMIZER_OFFLOAD_FRACTION": "0.5", "MP_SPLIT": "80,10,10"}
        | {"MP_DEVICE": "cuda", "MP_NPROC": "1"},
        "dsw tiny 1 8 1e-5 1e-6 128 128 bf16 1 1 1 false true true false offload static "
        "500 data none none 10240 1024 experiments/pretraining",
    ),
    "continued": (
        "--hf_model_id meta-llama/Llama-3.1-8B --nemo_model hf-8B --dataset_path data -g 2 --max_steps 7 "
        "--warmup_steps 0 --num_gpus 8 -T 4 -C 2",
        {"MP_DEVICE": "cuda", "MP_NPROC": "8", "MP_TOKENIZER_PATH": "hf-8B"},
        "dsw auto 1 2 1e-5 1e-6 8192 8192 bf16 4 1 2 false true true false false false "
        "500 data none hf-8B 114688 0 experiments/pretraining",
    ),
    "finetune": (
        "--hf_model_id hf-tiny --dataset_path alpaca -g 4 -s 128 --max_steps 5 --warmup_steps 1 --nemo_model",
        {"MP_DATASET_TYPE": "raw", "MP_TOKENIZER_PATH": "hf-tiny"},
        "dsw auto 1 4 5e-6 5e-7 128 128 bf16 1 1 1 false true true true false false "
        "500 alpaca/training.jsonl alpaca/validation.jsonl hf-tiny 5 1 experiments/finetuning",
    ),
    "slurm": (
        f"{TINY} --executor slurm -N 2 -G 4 -p gpu -A team -T 4 --time 4:00:00 --container_image none",
        {"MP_SLURM_NODES": "2", "MP_SLURM_GPUS": "4", "MP_SLURM_PARTITION": "gpu", "MP_SLURM_ACCOUNT": "team"}
        | {"MP_SLURM_TIME": "4:00:00", "MP_SLURM_IMAGE": "none", "MP_DEVICE": "auto"},
        "slurm tiny 1 8 1e-5 1e-6 128 128 bf16 4 1 1 false true true false false false "
        "500 data none none 10240 1024 experiments/pretraining",
    ),
}
"""A job in both spellings: named flags; variables and 25 values."""


@pytest.mark.parametrize("name", SAME)
def test_both_clis_make_the_same_plan(name: str, folders: Path) -> None:
    words, variables, positions = SAME[name]
    device = {"MP_DEVICE": variables.get("MP_DEVICE", "cpu")}
    asked = asked_for(words, FINETUNE if name == "finetune" else PRETRAIN, **device)
    environ = {"MP_TOKENIZER_PATH": "tokenizer", **device, **variables}
    first, _, wrong = make_plan(asked.command_line(), asked.environ, dry_run=True)
    second, _, also_wrong = make_plan(positions.split(), environ, dry_run=True)
    assert first is not None, wrong
    assert second is not None, also_wrong
    assert megatron_argv(first) == megatron_argv(second)
    assert values_of(first) == values_of(second)
    assert (first.layout, first.schedule, first.cluster) == (second.layout, second.schedule, second.cluster)


@pytest.mark.parametrize(
    ("words", "environ", "chunks"),
    [
        ("", {}, None),
        ("-PP 2", {}, "1"),
        ("-PP 2 -VPP 2", {}, "2"),
        ("-PP 2", {"MP_VP_CHUNKS": "2"}, "2"),
        ("-PP 2", {"MP_VP": "1"}, None),
    ],
)
def test_a_pipeline_has_one_chunk_as_in_their_scripts(
    folders: Path, words: str, environ: dict[str, str], chunks: str | None
) -> None:
    """The driver would take two where they pay."""
    assert asked_for(f"{TINY} {words}", **environ).environ.get("MP_VP_CHUNKS") == chunks


def test_one_epoch(folders: Path) -> None:
    """Two idxmaps of 2000 tokens: 4000 / (4 x 128) = 7 iterations; 20 conversations in fours: 5."""
    common = "--hf_model_id tokenizer -M tiny -s 128 -g 4 --dataset_path"
    asked = asked_for(f"{common} data")
    assert asked.values["TRAIN_TOKENS_OR_ITERS"] == str(7 * 4 * 128)
    assert "--max_steps is not given: one epoch = 4000 tokens / (4 x 128) = 7 steps" in map(str, asked.notes)
    asked = asked_for(f"{common} alpaca --nemo_model hf-tiny", FINETUNE)
    assert asked.values["TRAIN_TOKENS_OR_ITERS"] == "5"
    assert "--max_steps is not given: one epoch = 20 conversations / 4 = 5 steps" in map(str, asked.notes)


@pytest.mark.parametrize(
    ("words", "environ", "rows"),
    [
        ("", {"MP_SFT_PACKING": "true"}, 10),
        ("--split 90,10", {}, 18),
        ("", {"MP_SFT_OVERLONG": "drop"}, 20),
        ("", {"MP_SFT_TURNS": "one-by-one"}, 20),
    ],
)
def test_an_epoch_of_other_rows_than_lines_is_counted(
    folders: Path, words: str, environ: dict[str, str], rows: int
) -> None:
    """Of 20 conversations; packed, 20 / 4 = 5 steps would have been several epochs."""
    common = f"--hf_model_id tokenizer -M tiny -s 128 -g 4 --dataset_path alpaca --nemo_model hf-tiny {words}"
    (folders / "alpaca" / "validation.jsonl").unlink()
    asked = asked_for(common, FINETUNE, MP_DEVICE="cpu", **environ)
    plan, _, wrong = make_plan(asked.command_line(), asked.environ, dry_run=True)
    assert plan is not None, wrong
    assert plan.epochs is not None
    assert plan.epochs.size <= rows if "MP_SFT_PACKING" in environ else plan.epochs.size == rows
    assert plan.schedule.train_iters == -(-plan.epochs.size // 4)
    assert asked_for(f"{common} --max_steps 7", FINETUNE, **environ).values["TRAIN_TOKENS_OR_ITERS"] == "7"


@pytest.mark.parametrize(("data", "code"), [("--dataset_path alpaca", "nemo-data-missing"), ("", "nemo-data-needed")])
@pytest.mark.parametrize("environ", [{}, {"MP_SFT_PACKING": "true"}, {"MP_SPLIT": "90,10"}])
def test_an_epoch_of_data_that_are_not_there(folders: Path, data: str, code: str, environ: dict[str, str]) -> None:
    """MP_DATASET_TYPE=raw from the environment, and a folder without training.jsonl: was a traceback."""
    (folders / "alpaca" / "training.jsonl").rename(folders / "alpaca" / "other.jsonl")
    given = parse(f"--hf_model_id tokenizer -M tiny -s 128 -g 4 --nemo_model hf-tiny {data}".split()).given
    environ = {"DRY_RUN": "1", "MP_DATASET_TYPE": "raw"} | environ
    asked = Translation(given=given, environ=environ, stage=FINETUNE)
    translate(asked)
    assert [problem.code for problem in asked.problems] == [code]


def test_adapters() -> None:
    """--peft lora is NeMo's LoRA, 32 and 32; pretraining has none."""

    def asked(stage: str, **environ: str) -> Translation:
        made = Translation(given=parse(["--peft", "lora"]).given, environ={"DRY_RUN": "1", **environ}, stage=stage)
        translate(made)
        return made

    plain = asked(FINETUNE).environ
    assert (plain["MP_LORA_RANK"], plain["MP_LORA_ALPHA"]) == ("32", "32")
    assert asked(FINETUNE, MP_LORA_RANK="8").environ["MP_LORA_RANK"] == "8"
    wrong = asked(PRETRAIN)
    assert "nemo-peft-pretrain" in [problem.message.code for problem in wrong.problems]
    assert "MP_LORA_RANK" not in wrong.environ
