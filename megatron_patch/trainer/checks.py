"""What the flags ask for together and cannot have: said before the model is built, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megatron_patch.common.messages import Message
from megatron_patch.trainer.errors import TrainerError
from megatron_patch.trainer.passes import scales_tensorwise


def refuse_contradictions(args: Any) -> None:
    """Look at Megatron's arguments after `parse_and_validate_args`.

    Raises:
        TrainerError: one line for each contradiction.
    """
    problems = list(_problems(args))
    if problems:
        raise TrainerError("flags-together", problems=problems)


def _problems(args: Any) -> Iterator[Message]:
    if args.sft:
        yield Message("flags-sft")
    if args.sft_data and not args.calculate_per_token_loss:
        yield Message("flags-sft-average")
    if args.trained_logits < 0 or (args.trained_logits and not args.sft_data):
        yield Message("flags-logits", rows=args.trained_logits)
    if args.trained_logits and args.defer_embedding_wgrad_compute:
        yield Message("flags-logits-embedding")
    if args.sft_data and not args.train_data_path:
        yield Message("flags-sft-data")
    if args.full_validation and args.sft_data:
        yield Message("flags-sft-validation")
    elif args.full_validation and not args.multiple_validation_sets:
        yield Message("flags-full-validation")
    yield from _adapter_problems(args)
    yield from _fp8_problems(args)
    if args.load and args.hf_checkpoint and not args.lora_rank:
        yield Message("flags-two-starts")
    if args.async_save:
        yield Message("flags-async")
    has_validation = args.mock_data or args.data_path or args.valid_data_path or args.per_split_data_args_path
    if args.eval_iters and not has_validation and not args.sft_split:
        yield Message("flags-no-validation", iterations=args.eval_iters)
    if args.create_attention_mask_in_dataloader and args.transformer_impl == "local":
        yield Message("flags-mask")


def _adapter_problems(args: Any) -> Iterator[Message]:
    adapters = args.lora_rank is not None
    if adapters and not (args.hf_checkpoint or args.base_checkpoint):
        yield Message("flags-lora-base")
    if adapters and args.hf_checkpoint and args.base_checkpoint:
        yield Message("flags-two-bases")
    if adapters and args.freeze:
        yield Message("flags-freeze-lora")
    if adapters and args.use_transformer_engine_op_fuser:
        yield Message("flags-fuser-lora")
    if args.freeze and "layers" in args.freeze and not args.use_distributed_optimizer:
        yield Message("flags-freeze-layers")
    if args.base_checkpoint and not adapters:
        yield Message("flags-base-alone")
    if args.lora_adapter and not adapters:
        yield Message("flags-adapter-alone")
    if adapters and args.finetune:
        yield Message("flags-finetune-lora")


def _fp8_problems(args: Any) -> Iterator[Message]:
    """Of what is asked for by name; what is left out by default fits."""
    fewer = set(args.fewer_passes or ())
    if not args.fp8_extra and not fewer:
        return
    if args.transformer_impl != "transformer_engine":
        yield Message("flags-passes-engine")
    if not scales_tensorwise(args) and (args.fp8_extra or fewer - {"residual"}):
        yield Message("flags-passes-tensorwise")
    if "head" in args.fp8_extra and not args.untie_embeddings_and_output_weights:
        yield Message("flags-head-tied")
    if "head" in args.fp8_extra and args.tensor_model_parallel_size > 1:
        yield Message("flags-head-tp")
    if args.lora_rank is not None and "swiglu" in fewer:
        yield Message("flags-swiglu-lora")
