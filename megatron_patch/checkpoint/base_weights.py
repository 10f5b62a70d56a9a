"""The base of adapters by Hugging Face's names, whether it is a Hugging Face folder or a Megatron checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_patch.checkpoint.configuration import find_configuration
from megatron_patch.checkpoint.contents import look_for_megatron
from megatron_patch.checkpoint.converter.conversion import Conversion
from megatron_patch.checkpoint.converter.convert import check_megatron_shapes
from megatron_patch.checkpoint.converter.run_conversion import stored_precision
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats.hf_folder import model_of, open_hf_folder
from megatron_patch.checkpoint.formats.per_rank_reader import open_megatron
from megatron_patch.checkpoint.formats.sources import MegatronReader, SafetensorsSource, Source
from megatron_patch.models import AUTO, ModelConfig
from megatron_patch.models.weight_map import Tensor, hf_tensors, invert


@dataclass(frozen=True, kw_only=True)
class Base:
    """Weights, and what travels with them."""

    folder: Path
    """Of the weights."""
    model: ModelConfig
    config: dict[str, Any]
    """config.json."""
    companions: Path
    """The folder of tokenizer, chat template and generation config."""
    source: Source
    """By Hugging Face's names."""
    vocab_size: int

    def tensors(self) -> list[Tensor]:
        """All of them, as they are, in the order in which they lie in a folder."""
        return hf_tensors(self.model, self.vocab_size)

    def element_type(self) -> str:
        """F32, F16 or BF16.

        Raises:
            CheckpointError: tensors of several types.
        """
        types = sorted({self.source.element_type(tensor.name) for tensor in self.tensors()})
        if len(types) > 1:
            raise CheckpointError.at(self.folder, "weights-several-types", types=types)
        return types[0]


class _OfMegatron(Source):
    """A Megatron checkpoint, read tensor by tensor as Hugging Face has them."""

    def __init__(self, reader: MegatronReader, tensors: list[Tensor]) -> None:
        self._reader = reader
        self._tensors = {tensor.name: tensor for tensor in tensors}

    def element_type(self, name: str) -> str:
        """F32, F16 or BF16."""
        return self._reader.element_type(next(iter(self._tensors[name].spans)).name)

    def read_rows(self, name: str, layer: int | None, start: int, out: torch.Tensor) -> None:
        """Fill `out`; Hugging Face's tensors have no layer axis."""
        assert layer is None
        for offset, span in self._tensors[name].cut(start, out.shape[0]):
            self._reader.read_rows(span.name, span.layer, span.start, out[offset : offset + span.rows])


def open_base(path: Path) -> Base:
    """A Hugging Face folder with safetensors, or a Megatron checkpoint (one iteration, or the folder above it).

    Raises:
        CheckpointError: it is neither, or its weights are a pickle.
    """
    if any(path.glob("*.safetensors")) or any(path.glob("*.bin")):
        folder = open_hf_folder(path, AUTO)
        if folder.pickles:
            raise CheckpointError.at(path, "weights-pickled-base")
        return Base(
            folder=path,
            model=folder.model,
            config=dict(folder.config),
            companions=path,
            source=SafetensorsSource(folder),
            vocab_size=folder.vocab_size,
        )
    iteration = look_for_megatron(path)
    configuration = find_configuration(iteration, called="--base")
    model = model_of(configuration.config, configuration.origin, AUTO)
    assert model.vocab_size is not None
    reader = open_megatron(iteration, tied=model.tie_embeddings)
    conversion = Conversion(model=model, vocab_size=model.vocab_size, precision=stored_precision(reader), workers=1)
    check_megatron_shapes(reader, conversion)
    return Base(
        folder=iteration,
        model=model,
        config=configuration.config,
        companions=configuration.companions,
        source=_OfMegatron(reader, invert(conversion.tensors())),
        vocab_size=model.vocab_size,
    )
