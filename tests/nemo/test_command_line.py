"""Every flag and every spelling of the three texts, read."""

from __future__ import annotations

import os

import pytest

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.nemo.command_line import parse
from megatron_patch.nemo.flags import FLAGS, Flag
from megatron_patch.nemo.translate import PRETRAIN, Translation

README = REPOSITORY / "examples" / "llama3_1" / "README.md"

PRETRAINING_PY = """
--executor -E --experiment -a --account -p --partition -i --container_image -N --num_nodes -G --num_gpus
--hf_model_id -n --nemo_model --hf_token --dataset_path --max_steps -g --global_batch_size -m --micro_batch_size -T
--tensor_model_parallel_size -P --pipeline_model_parallel_size -C --context_parallel_size
""".split()  # noqa: SIM905
PRETRAIN_LLM_PY = """
--executor -E --experiment -A --account -P --partition -I --container-image -N --num-nodes -G --num-gpus -M
--model-name --hf-model-id --nemo-model --hf-token --max-steps -gbs --global-batch-size -mbs --micro_batch_size
--fp8 -TP --tensor-model-parallel-size -PP --pipeline-model-parallel-size -VPP
--virtual-pipeline-model-parallel-size -CP --context-parallel-size -SP --sequence-parallel --dataset-dir
--dataset_path --wandb --wandb-project --wandb-name --wandb-token --recompute-granularity --recompute-method
--recompute-num-layers --cpu-offloading --cpu-offloading-layers --cpu-offloading-activations
--cpu-offloading-weights --optim-cpu-offloading --optim-cpu-offloading-frac
""".split()  # noqa: SIM905
FOUR_STAGES = """
--executor --experiment --num_nodes --num_gpus --model_size --hf_model_id --nemo_model --hf_token --max_steps
--global_batch_size --tensor_model_parallel_size --pipeline_model_parallel_size --context_parallel_size
--dataset_path
""".split()  # noqa: SIM905
DOCUMENTED = {
    "executor": "local",
    "experiment": "pretraining",
    "account": "root",
    "partition": "defq",
    "container_image": "nvcr.io/nvidia/nemo:dev",
    "num_nodes": 1,
    "num_gpus": 8,
    "nemo_model": None,
    "max_steps": None,
    "global_batch_size": 2048,
    "micro_batch_size": 1,
    "seq_length": 8192,
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "context_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": 1,
    "optim_cpu_offloading_frac": 1.0,
}
"""Defaults in the texts' tables; switches are off."""


@pytest.mark.parametrize("word", sorted({*PRETRAINING_PY, *PRETRAIN_LLM_PY, *FOUR_STAGES}))
def test_every_spelling_of_the_texts_is_known(word: str) -> None:
    both = {word, word[:2] + word[2:].replace("-", "_"), word[:2] + word[2:].replace("_", "-")}
    for spelling in both if word.startswith("--") else {word}:
        line = parse([spelling, "1"] if spelling != "--executor" else [spelling, "local"])
        assert not [one for one in line.problems if one.code.startswith("flag-unknown") and one.names[0] == spelling]


def test_defaults_are_the_documented_ones() -> None:
    asked = Translation(given={}, environ={}, stage=PRETRAIN)
    assert {name: asked.get(name) for name in DOCUMENTED} == DOCUMENTED
    assert not any(asked.get(flag.name) for flag in FLAGS if flag.kind is None)


def test_short_p_is_two_things() -> None:
    """One tutorial means the pipeline by it, another the partition."""
    assert parse(["-P", "4"]).given == {"pipeline_model_parallel_size": 4}
    assert parse(["-P", "gpu"]).given == {"partition": "gpu"}


def test_no_two_flags_share_a_spelling() -> None:
    words = [word for flag in FLAGS for word in (f"--{flag.name}", *flag.also)]
    assert {word for word in words if words.count(word) > 1} == {"-P"}


def test_the_readme_maps_every_flag() -> None:
    """One row each, with all spellings and what it becomes."""
    text = README.read_text(encoding="utf-8")
    rows = [flag_row(flag) for flag in FLAGS if flag.becomes]
    if os.environ.get("UPDATE_GOLDEN"):
        begin, end = "<!-- nemo flags: begin (tests/nemo/test_command_line.py) -->\n", "<!-- nemo flags: end -->"
        before, rest = text.split(begin)
        head = "| flag | default | becomes | |\n| --- | --- | --- | --- |\n"
        text = before + begin + head + "\n".join(rows) + "\n" + end + rest.split(end)[1]
        README.write_text(text, encoding="utf-8")
    assert [row for row in rows if row not in text] == []


def flag_row(flag: Flag) -> str:
    spelled = ", ".join(f"`{word}`" for word in (f"--{flag.name}", *flag.also))
    default = "off" if flag.kind is None else "" if flag.default is None else f"`{flag.default}`"
    return f"| {spelled} | {default} | {flag.becomes} | {flag.meaning} |"
