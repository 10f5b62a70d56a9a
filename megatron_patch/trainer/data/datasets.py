"""The training, validation and test data of one rank, as Megatron's GPTDataset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from megatron.core import mpu
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDatasetConfig, MockGPTDataset
from megatron.training import get_args, get_tokenizer, print_rank_0
from megatron.training.utils import get_blend_and_blend_per_split

from megatron_patch.common.messages import localized
from megatron_patch.trainer.data import batch_origin
from megatron_patch.trainer.data.batch import reads_data
from megatron_patch.trainer.data.content import identities, remember
from megatron_patch.trainer.data.id_check import GPTDataset
from megatron_patch.trainer.data.index_cache import cache_folder, drop_torn_indices


def enough_for_validation(args: Any, planned: int | None) -> int | None:
    """How many validation samples this run reads, counted from iteration 0 of its first start.

    Megatron 0.19.2 counts them by the schedule of this start alone, and goes on behind what the checkpoint says was
    read: a run that is extended, or validates more seldom or less than before, has no sample left. Where the schedule
    is the same the count is too, and with it the order of the samples.

    Args:
        args: Megatron's, with the position that a checkpoint gave.
        planned: Megatron's count; None where every validation reads the whole set.
    """
    if not planned or not args.eval_iters:
        return planned
    points_left: int = args.train_iters // args.eval_interval - args.iteration // args.eval_interval + 1
    return max(planned, int(args.consumed_valid_samples + points_left * args.eval_iters * args.eval_global_batch_size))


def provide_datasets(num_samples: Sequence[int | None], vp_stage: int | None = None) -> tuple[Any, Any, Any]:
    """Build the three data sets on the ranks that read them.

    Args:
        num_samples: of training, validation and test.
        vp_stage: virtual pipeline stage that asks.
    Returns:
        Training, validation and test set; None where the rank reads none.
    """
    args = get_args()
    num_samples = [num_samples[0], enough_for_validation(args, num_samples[1]), num_samples[2]]
    blend, blend_per_split = get_blend_and_blend_per_split(args)
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        blend=blend,
        blend_per_split=blend_per_split,
        split=args.split,
        path_to_cache=None if args.mock_data else str(_index_folder(args, blend, blend_per_split)),
        mmap_bin_files=args.mmap_bin_files,
        tokenizer=get_tokenizer(),
        reset_position_ids=args.reset_position_ids,
        reset_attention_mask=args.reset_attention_mask,
        eod_mask_loss=args.eod_mask_loss,
        create_attention_mask=args.create_attention_mask_in_dataloader,
        num_dataset_builder_threads=args.num_dataset_builder_threads,
        mid_level_dataset_surplus=args.mid_level_dataset_surplus,
    )
    kind = MockGPTDataset if args.mock_data else GPTDataset
    built: tuple[Any, Any, Any] = BlendedMegatronDatasetBuilder(
        kind, num_samples, partial(_read_here, vp_stage), config
    ).build()
    batch_origin.keep(built[0])
    return built


provide_datasets.is_distributed = True  # type: ignore[attr-defined]  # Megatron: every rank calls it


def _read_here(vp_stage: int | None) -> bool:
    return reads_data(vp_stage, packed=False) and mpu.get_tensor_model_parallel_rank() == 0


def _index_folder(args: Any, blend: Any, blend_per_split: Any) -> Path:
    """The folder of the sample indices, free of torn files. Every rank waits until rank 0 has looked."""
    blends = [blend] if blend is not None else blend_per_split or []
    prefixes = sorted({prefix for one in blends if one is not None for prefix in one[0]})
    folder = cache_folder(Path(args.data_cache_path or args.output_dir / "cache"), prefixes)
    if torch.distributed.get_rank() == 0:
        for path in drop_torn_indices(folder):
            print_rank_0(localized("cache-cut", path=path))
        remember(args.output_dir, identities(prefixes, raw=False), resumed=bool(args.iteration))
    torch.distributed.barrier()
    return folder
