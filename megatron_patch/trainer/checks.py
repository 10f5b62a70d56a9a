"""What the flags ask for together and cannot have: said before the model is built, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megatron_patch.trainer.errors import TrainerError


def refuse_contradictions(args: Any) -> None:
    """Look at Megatron's arguments after `parse_and_validate_args`.

    Raises:
        TrainerError: one line for each contradiction.
    """
    problems = list(_problems(args))
    if problems:
        raise TrainerError("\n  ".join(["these flags do not go together:", *problems]))


def _problems(args: Any) -> Iterator[str]:
    if args.sft:
        yield "--sft: Megatron's own finetuning is not used here; give --sft-data raw or --sft-data idxmap"
    if args.sft_data and not args.calculate_per_token_loss:
        yield "--sft-data without --calculate-per-token-loss: short answers would weigh more than long ones"
    if args.trained_logits < 0 or (args.trained_logits and not args.sft_data):
        yield f"--trained-logits {args.trained_logits}: takes a number of rows above 0, and --sft-data"
    if args.trained_logits and args.defer_embedding_wgrad_compute:
        yield "--trained-logits with --defer-embedding-wgrad-compute: it keeps the LM head's whole input; leave one out"
    if args.sft_data and not args.train_data_path:
        yield "--sft-data without --train-data-path: training and validation data are named apart"
    if args.full_validation and args.sft_data:
        yield "--full-validation with --sft-data: its sets are validated in equal shares; give --eval-iters alone"
    elif args.full_validation and not args.multiple_validation_sets:
        yield "--full-validation: megatron-core 0.19.2 fails at the first validation (TypeError); give --eval-iters"
    yield from _adapter_problems(args)
    if args.load and args.hf_checkpoint and not args.lora_rank:
        yield "--load and --hf-checkpoint: weights can come from one place only"
    if args.async_save:
        yield "--async-save: Megatron's own is not used here; give --background-save"
    has_validation = args.mock_data or args.data_path or args.valid_data_path or args.per_split_data_args_path
    if args.eval_iters and not has_validation:
        yield f"--eval-iters {args.eval_iters} without --valid-data-path: give validation data, or --eval-iters 0"
    if args.create_attention_mask_in_dataloader and args.transformer_impl == "local":
        yield "--create-attention-mask-in-dataloader: the local layers are causal by themselves; pass the --no- form"


def _adapter_problems(args: Any) -> Iterator[str]:
    adapters = args.lora_rank is not None
    if adapters and not (args.hf_checkpoint or args.base_checkpoint):
        yield "--lora-rank without a base: give --hf-checkpoint or --base-checkpoint"
    if adapters and args.hf_checkpoint and args.base_checkpoint:
        yield "--hf-checkpoint and --base-checkpoint: the base can come from one place only"
    if adapters and args.freeze:
        yield "--freeze with --lora-rank: adapters freeze all other weights"
    if adapters and args.use_transformer_engine_op_fuser:
        yield "--use-transformer-engine-op-fuser with --lora-rank: its fused layers would pass by the adapters"
    if args.freeze and "layers" in args.freeze and not args.use_distributed_optimizer:
        yield "--freeze layers without --use-distributed-optimizer: megatron-core 0.19.2 cannot save such an optimizer"
    if args.base_checkpoint and not adapters:
        yield "--base-checkpoint without --lora-rank: give --load"
    if args.lora_adapter and not adapters:
        yield "--lora-adapter without --lora-rank: give the rank that it has"
    if adapters and args.finetune:
        yield "--finetune with --lora-rank: --load is for adapters of this run; the base is --base-checkpoint"
