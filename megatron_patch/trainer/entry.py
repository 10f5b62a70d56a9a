"""The program of one rank: `torchrun examples/llama3_1/pretrain_llama.py FLAGS`."""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from megatron_patch.backend import APPLIED, enable
from megatron_patch.trainer import BEGAN
from megatron_patch.trainer.arguments import add_arguments, parse_early
from megatron_patch.trainer.errors import TrainerError
from megatron_patch.trainer.process import claim, end_with_launcher
from megatron_patch.trainer.startup import Startup
from megatron_patch.trainer.streams import Streams

if TYPE_CHECKING:
    from megatron_patch.trainer.reporter import Reporter


def main() -> None:
    """Train as the command line says; ends the process with a status other than 0 if anything went wrong."""
    gc.disable()  # until all is imported: 4,000 modules hold next to no garbage, and looking for it takes a tenth
    startup = Startup(BEGAN)
    early = parse_early(sys.argv[1:])
    os.environ["HF_HUB_OFFLINE"] = "1"  # tokenizers come from local folders; never try the network
    streams = Streams(early.output_dir, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    try:
        end_with_launcher()
        if streams.rank == 0:
            claim(early.output_dir)
        _recorded(partial(_run, early, streams, startup))
    except BaseException as error:
        streams.report(error)
        sys.exit(error.code if isinstance(error, SystemExit) and error.code else 1)


def _recorded(run: Any) -> None:
    """Let torchrun's summary name the rank that failed first, and why."""
    from torch.distributed.elastic.multiprocessing.errors import record

    run.__name__ = "main"
    record(run)()


def _run(early: Any, streams: Streams, startup: Startup) -> None:
    import torch

    startup.done("torch")

    from megatron_patch.backend import wandb_fixes

    wandb_fixes.hide_idle_wandb()
    enable(early.device)
    print("\n".join(["patches", *APPLIED]))

    from megatron_patch.backend import hooks
    from megatron_patch.common.hardware import peak_tflops
    from megatron_patch.trainer.reporter import Reporter

    device = torch.cuda.get_device_name() if early.device == "cuda" else "CPU process"
    reporter = Reporter(streams, early.output_dir, peak_tflops(device), startup)
    hooks.observe(reporter)
    done = False
    try:
        _pretrain(reporter, device)
        done = True
    except SystemExit as stop:
        if stop.code:
            raise
        if not reporter.started:
            raise TrainerError("Megatron ended without training; see the log") from stop
        cause = "a signal" if hooks.stopped_by_signal() else "an --exit flag"
        reporter.say(f"stopped by {cause} after iteration {reporter.iteration}; the same command goes on from there")
    finally:
        reporter.close()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if done and early.export_hf and streams.rank == 0:  # the others need not wait for it
        _export(early, reporter)


def _export(early: Any, reporter: Reporter) -> None:
    """Write the Hugging Face folder of the last iteration; a start that finds all iterations done comes here too."""
    from megatron_patch.checkpoint.errors import CheckpointError
    from megatron_patch.checkpoint.export import export_hf

    try:
        for line in export_hf(early.output_dir, early.export_hf, overwrite=True):
            reporter.say_here(line)
    except CheckpointError as error:
        problems = ["training is done and saved, but not exported:", *error.problems]
        raise CheckpointError(problems) from None


def _pretrain(reporter: Reporter, device: str) -> None:
    from megatron.core.enums import ModelType
    from megatron.training import pretrain
    from megatron.training.argument_utils import pretrain_cfg_container_from_args
    from megatron.training.arguments import parse_and_validate_args

    from megatron_patch.backend import hooks, wheel_fixes
    from megatron_patch.trainer.checks import refuse_contradictions
    from megatron_patch.trainer.datasets import provide_datasets
    from megatron_patch.trainer.sft import sft_provider
    from megatron_patch.trainer.step import forward_step
    from megatron_patch.trainer.summary import summary_lines
    from megatron_patch.trainer.token_ids import token_ids

    wheel_fixes.read_tokenizers_with(token_ids)
    gc.freeze()
    gc.enable()
    reporter.built("Megatron")
    args = parse_and_validate_args(extra_args_provider=add_arguments)
    reporter.built("arguments and tokenizer")
    hooks.interrupt_like_termination(args)
    refuse_contradictions(args)
    _prepare_backend(args, reporter)
    for line in summary_lines(args, device):
        reporter.say(line)
    if _is_finished(args):
        reporter.say(f"finished: all {args.train_iters} iterations are done, nothing to train")
        return
    config = pretrain_cfg_container_from_args(args, _model_config(args, reporter))
    provider = sft_provider(args, reporter.say_here) if args.sft_data else provide_datasets
    pretrain(config, provider, ModelType.encoder_or_decoder, forward_step)


def _prepare_backend(args: Any, reporter: Reporter) -> None:
    """What these arguments want of it."""
    from megatron_patch.backend import wandb_fixes, z_loss
    from megatron_patch.backend.gpu import attention as te_attention
    from megatron_patch.backend.saving import asynchronous as background_save
    from megatron_patch.backend.saving import checkpoint_fixes

    if args.background_save:
        background_save.save_in_the_background(args)
    if args.wandb_project:
        wandb_fixes.log_complete_checkpoints()
    if args.keep_checkpoints:
        checkpoint_fixes.keep_newest(args.keep_checkpoints)
    if args.z_loss:
        z_loss.keep_log_z()
    if args.transformer_impl == "transformer_engine":
        te_attention.watch_attention(
            reporter.say, seq_length=args.seq_length, allow_unfused=args.allow_unfused_attention
        )


def _model_config(args: Any, reporter: Reporter) -> Any:
    """Megatron's configuration of the model, with what its own function leaves out."""
    from megatron.training.argument_utils import gpt_config_from_args

    model_config = gpt_config_from_args(args)
    model_config.rope_scaling_factor = args.rope_scaling_factor  # 0.19.2 parses it and keeps 8.0
    model_config.transformer.fused_single_qkv_rope = args.fused_single_qkv_rope
    # Packed rows of several samples travel between pipeline stages as [b x s, 1, h], not [s, b, h].
    model_config.transformer.variable_seq_lengths |= args.sft_packing and args.micro_batch_size > 1
    # Weights that are read next need no random values first; fp8 weights take their scales from what is there.
    model_config.transformer.perform_initialization = bool(args.fp8) or not (args.hf_checkpoint or args.load)
    model_config.pre_wrap_hooks.append(partial(_after_construction, args, reporter))
    return model_config


def _is_finished(args: Any) -> bool:
    return bool(args.load and not args.finetune and args.ckpt_step and args.ckpt_step >= args.train_iters)


def _after_construction(args: Any, reporter: Reporter, model_chunks: list[Any]) -> list[Any]:
    """Fill the fresh model from safetensors where asked to, each rank its slices."""
    from megatron_patch.backend.gpu.quantized import in_high_precision
    from megatron_patch.checkpoint.hf_start import load_hf_into

    reporter.built("model")
    if args.hf_checkpoint:
        with in_high_precision(model_chunks):
            load_hf_into(model_chunks, args.hf_checkpoint)
        reporter.built("weights")
    return model_chunks
