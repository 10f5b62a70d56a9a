"""The model in Megatron's words: what its own parser makes of the flags is the model again."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from megatron_patch.models import ModelConfig, RopeScaling, families, model_of_size
from megatron_patch.models.megatron import architecture_flags

WORKER = """
import json, sys
from megatron_patch.backend import enable
enable("cpu")
from megatron.training.argument_utils import gpt_config_from_args
from megatron.training.arguments import parse_args, validate_args
from megatron_patch.models.config import model_from_dict
from megatron_patch.models.megatron import gpt_fields, model_of_arguments, transformer_fields, yarn_attributes
from megatron_patch.trainer.arguments import add_arguments
import dataclasses
found = []
for flags in json.load(sys.stdin):
    sys.argv = ["x", *flags]
    args = parse_args(add_arguments, ignore_unknown_args=False)
    args.padded_vocab_size = 512
    model = model_of_arguments(args)
    validate_args(args)
    config = gpt_config_from_args(args)
    wanted = {**transformer_fields(model), **yarn_attributes(model)}
    other = {name: [value, getattr(config.transformer, name, "absent")] for name, value in wanted.items()}
    fields = gpt_fields(model)
    for name, value in {
        "max_sequence_length": args.max_position_embeddings, "position_embedding_type": config.position_embedding_type,
        "share_embeddings_and_output_weights": config.share_embeddings_and_output_weights,
        "rotary_base": config.rotary_base, "rope_scaling": config.rope_scaling,
        "rope_scaling_factor": args.rope_scaling_factor,  # trainer/entry.py hands it on
    }.items():
        other[name] = [fields.get(name, False if name == "rope_scaling" else value), value]
    found.append([dataclasses.asdict(model), {name: pair for name, pair in other.items() if pair[0] != pair[1]}])
print(json.dumps(found))
"""
RUN = [
    *(
        "--micro-batch-size",
        "1",
        "--global-batch-size",
        "1",
        "--seq-length",
        "64",
        "--train-iters",
        "1",
        "--lr",
        "1e-3",
    ),
    *("--tokenizer-type", "NullTokenizer", "--vocab-size", "500", "--mock-data", "--output-dir", "unused"),
    *("--transformer-impl", "local", "--no-gradient-accumulation-fusion", "--no-masked-softmax-fusion"),
    *("--no-rope-fusion", "--no-persist-layer-norm", "--distributed-backend", "gloo", "--device", "cpu"),
]
TINY = model_of_size("tiny")
MODELS: dict[str, ModelConfig] = {
    **{name: next(iter(family.sizes.values())) for name, family in families().items()},
    "yarn": dataclasses.replace(
        TINY, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=32768, beta_fast=30.0)
    ),
    "biases": dataclasses.replace(TINY, qkv_bias=True, rope_scaling=None, tie_embeddings=True),
    "norms": dataclasses.replace(TINY, qk_norm=True, head_dim=64, norm_epsilon=1e-6, rope_theta=1e6),
}


@pytest.fixture(scope="module")
def parsed() -> dict[str, list]:
    """Of each model, what Megatron's parser and its configuration make of the flags."""
    flags = [[*architecture_flags(model), *RUN] for model in MODELS.values()]
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        input=json.dumps(flags),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(MODELS, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_flags_and_back(parsed: dict[str, list], name: str) -> None:
    """All facts of the architecture reach Megatron's arguments, and its own configuration."""
    model, differences = parsed[name]
    not_flags = {"name": "", "source": "the arguments of this run", "model_type": "llama", "vocab_size": 512}
    assert model == {**dataclasses.asdict(MODELS[name]), **not_flags}
    assert differences == {}
