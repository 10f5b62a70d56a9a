"""What a family file says, and how the files are found: every module of this folder that has a `FAMILY`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from megatron_patch.models.config import ModelConfig

TINY: Mapping[str, Any] = {
    "num_layers": 4,
    "hidden_size": 256,
    "ffn_hidden_size": 768,
    "num_attention_heads": 8,
    "num_query_groups": 2,
    "vocab_size": None,
    "source": "this project",
}
"""A debug size: trains on two CPU cores, with grouped-query attention and the vocabulary of its tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A set of sizes that share one architecture, one chat template and one set of scripts.

    The common part is Llama's decoder: RMSNorm before attention and MLP, RoPE, grouped-query attention, SwiGLU, no
    biases. A family says in what it differs, and what its `config.json` leaves to transformers' defaults.
    """

    name: str
    """As in `mistral-7B`."""
    model_type: str
    """`model_type` in `config.json`. Families may share one; they then differ in name and sizes only."""
    architecture: str
    """The one entry of `architectures` in `config.json`, and transformers' class."""
    reference: str = ""
    """Whose classes transformers runs it with, where it has a configuration of its own but no model: `Llama`."""
    script: str = ""
    """Under `examples/`, where it is not `NAME/run_mcore_NAME.sh`."""
    bare_names: bool = False
    """Its sizes need no family in front of them anywhere. One family has this."""
    qkv_bias: bool | str = False
    """Whether q, k and v have biases; or the key of `config.json` that says it."""
    qk_norm: bool = False
    """Whether queries and keys are normalized head by head."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Keys of `config.json` that are written so, and refused where they say something else."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of `config.json` that are written and not looked at."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers takes for keys that a `config.json` leaves out, where that is not Llama's."""
    every_size: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig that all rows share."""
    rows: Mapping[str, Mapping[str, Any]]
    """Of each size, by its bare name, the other fields of ModelConfig."""
    nemo_recipes: Mapping[str, str] = field(default_factory=dict)
    """NeMo's recipes, and which size each is."""
    nemo_configs: Mapping[str, str] = field(default_factory=dict)
    """NeMo's configuration classes, likewise."""
    nemo_classes: tuple[str, ...] = ()
    """NeMo's model classes."""
    nemo_refused: Mapping[str, str] = field(default_factory=dict)
    """NeMo's names of models that are none of the sizes, and the code of the text that says why."""
    hub_names: Mapping[str, str] = field(default_factory=dict)
    """Further repositories of a size's architecture, beside those that the sizes' sources name."""

    @cached_property
    def sizes(self) -> dict[str, ModelConfig]:
        """By bare name; each model has the name under which it is known everywhere."""
        return {size: self._model(size, row) for size, row in self.rows.items()}

    def _model(self, size: str, row: Mapping[str, Any]) -> ModelConfig:
        facts = {"qk_norm": self.qk_norm, "model_type": self.model_type, **self.every_size, **row}
        if isinstance(self.qkv_bias, bool):
            facts["qkv_bias"] = self.qkv_bias
        elif "qkv_bias" not in facts:
            raise ValueError(f"{self.name} {size}: config.json has {self.qkv_bias}: the row has to say qkv_bias")
        facts.setdefault("head_dim", facts["hidden_size"] // facts["num_attention_heads"])
        return ModelConfig(name=self.full_name(size), **facts)

    def full_name(self, size: str) -> str:
        """`mistral-7B`; for the family of the bare names the size alone."""
        return size if self.bare_names else f"{self.name}-{size}"

    @property
    def driver(self) -> str:
        """The script that takes its 25 values, from the repository's top."""
        return f"examples/{self.script or f'{self.name}/run_mcore_{self.name}.sh'}"

    @property
    def transformers_module(self) -> str:
        """Where transformers keeps the family's classes."""
        package = self.reference.lower() or self.model_type
        return f"transformers.models.{package}.modeling_{package}"

    def transformers_class(self, part: str) -> str:
        """Of one of them: `part` is `Config`, `DecoderLayer`, `RotaryEmbedding`, `RMSNorm`, `ForCausalLM`."""
        own = self.architecture.removesuffix("ForCausalLM")
        return (self.reference or own if part != "Config" else own) + part


@cache
def families() -> dict[str, Family]:
    """All families by name, the one of the bare names first."""
    names = sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py"))
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    found = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.name: family for family in sorted(found, key=lambda family: (not family.bare_names, family.name))}


@cache
def by_model_type() -> dict[str, Family]:
    """For each `model_type`, the first family that has it."""
    return {family.model_type: family for family in reversed(families().values())}


def family_of(model: ModelConfig) -> Family:
    """The family whose rules a model follows.

    Raises:
        KeyError: no file of this folder has its model_type.
    """
    return by_model_type()[model.model_type]
