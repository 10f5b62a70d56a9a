"""A Hugging Face model folder with random weights, of any size, without the hub.

    python -m megatron_patch.checkpoint.random_model SIZE FOLDER [--tokenizer FOLDER] [--layers N] ...

Streamed like a conversion, so that a 70B one needs no more memory than a tiny one. The same seed gives the same
bytes.
"""

from __future__ import annotations

import argparse
import zlib
from dataclasses import replace
from pathlib import Path

import torch

from megatron_patch.checkpoint.configuration import special_token_ids
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.formats.hf_folder import DTYPES, SAFETENSORS_DTYPES, companions, copy_companions
from megatron_patch.checkpoint.formats.hf_writer import write_safetensors
from megatron_patch.checkpoint.formats.sources import BlockMaker, Source
from megatron_patch.checkpoint.formats.torch_dist import TORCH_DTYPES
from megatron_patch.checkpoint.store import check_target, staged
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.messages import localized, say
from megatron_patch.common.terminal import guard
from megatron_patch.data.tokenizers.folder import count_ids_of
from megatron_patch.models import AUTO, ModelConfig, model_of_size, model_to_hf_config, resolve_size, sizes
from megatron_patch.models.weight_map import hf_tensors

PERIOD = 1_000_003
"""Numbers drawn for a block before they repeat: a prime, so that no two rows are alike. Drawing is slow."""


class _RandomSource(Source):
    """Normal numbers of the model's initial standard deviation; norms near one."""

    def __init__(self, std: float, element_type: str, seed: int) -> None:
        self._std, self._element_type, self._seed = std, element_type, seed

    def element_type(self, name: str) -> str:
        return self._element_type

    def read_rows(self, name: str, layer: int | None, start: int, out: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed} {name} {start}".encode()))
        flat = out.view(-1)
        drawn = torch.empty(min(PERIOD, flat.numel()), dtype=out.dtype).normal_(0.0, self._std, generator=generator)
        for first in range(0, flat.numel(), PERIOD):
            part = flat[first : first + PERIOD]
            part.copy_(drawn[: part.numel()])
        if "norm" in name:
            out.add_(1.0)


def make_hf_checkpoint(
    target: Path,
    model: ModelConfig,
    *,
    precision: str = "bf16",
    vocab_size: int | None = None,
    tokenizer: Path | None = None,
    seed: int = 1234,
    shard_bytes: int | None = None,
    workers: int = 2,
) -> None:
    """Write a model folder that transformers loads.

    Args:
        vocab_size: rows of the embedding; the model's own if None.
        tokenizer: a folder whose tokenizer files are copied.
        shard_bytes: most bytes of one safetensors file; None lets the size decide.
    """
    vocab = vocab_size or model.vocab_size
    if vocab is None:
        raise ValueError(f"{model.name} takes its vocabulary from the tokenizer: pass vocab_size")
    tensors = hf_tensors(model, vocab)
    element_type = SAFETENSORS_DTYPES[precision]
    source = _RandomSource(model.init_method_std, element_type, seed)
    maker = BlockMaker(source, TORCH_DTYPES[element_type], target, whole=True)
    with staged(target, {"format": "huggingface", "precision": precision, "random_seed": seed}) as stage:
        write_safetensors(stage, tensors, maker, workers, lambda nbytes: None, shard_bytes)
        config = model_to_hf_config(model, dtype=DTYPES[precision], vocab_size=vocab)
        if tokenizer is not None:
            config |= special_token_ids(tokenizer)
        copy_companions(tokenizer or stage.path, stage.path, config, precision)


def tokenizer_vocab_size(folder: Path, model_type: str | None = None) -> int:
    """Tokens of a Hugging Face tokenizer folder, added ones included, read from its JSON: beside a config.json of this
    model_type there may be one more."""
    return count_ids_of(folder, model_type)


def _size(typed: str) -> str:
    name = resolve_size(typed)
    if name is None or name == AUTO:
        raise argparse.ArgumentTypeError(localized("random-size", size=repr(typed), sizes=list(sizes())))
    return name


def main() -> None:
    """The command line."""
    parser = ArgumentParser(prog="random_model", description=localized("random-about"))
    parser.add_argument("size", type=_size, help=", ".join(sizes()))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, help=localized("random-help-tokenizer"))
    parser.add_argument("--vocab-size", type=int, help=localized("random-help-vocabulary"))
    parser.add_argument("--layers", type=int, help=localized("random-help-layers"))
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16")
    parser.add_argument("--seed", type=int, default=1234)
    args = parser.parse_args()
    model = model_of_size(args.size)
    if args.layers:
        model = replace(model, num_layers=args.layers)
    if args.tokenizer and not companions(args.tokenizer):
        parser.error(localized("random-tokenizer", folder=args.tokenizer))
    sources = [args.tokenizer] if args.tokenizer else []
    if problems := check_target(args.folder, overwrite=True, sources=sources):  # an older model is replaced
        parser.error(CheckpointError.of(problems).localized())
    vocab = args.vocab_size or model.vocab_size
    if vocab is None and args.tokenizer:
        vocab = tokenizer_vocab_size(args.tokenizer, model.model_type)
    if vocab is None:
        parser.error(localized("random-vocabulary", size=args.size))
    make_hf_checkpoint(
        args.folder, model, precision=args.precision, vocab_size=vocab, tokenizer=args.tokenizer, seed=args.seed
    )
    facts = {"precision": args.precision, "vocabulary": vocab}
    say("random-wrote", folder=args.folder, parameters=model.num_parameters(vocab), **facts)


if __name__ == "__main__":
    guard()
    main()
