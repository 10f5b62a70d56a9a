"""The program of one rank: `torchrun examples/llama3_1/pretrain_llama.py FLAGS`."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_patch.backend import APPLIED, enable
from megatron_patch.backend.saving.errors import StuckSave
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.parent import end_with_parent
from megatron_patch.runs import status as run_status
from megatron_patch.runs.heartbeat import HEART
from megatron_patch.runs.recovery import Status
from megatron_patch.runs.validations import stopped_early
from megatron_patch.trainer import BEGAN
from megatron_patch.trainer.arguments import add_arguments, parse_early
from megatron_patch.trainer.errors import MAY_PASS, SpikeError, TrainerError, echo_of
from megatron_patch.trainer.process import leave_signals_to_launcher, note_failure
from megatron_patch.trainer.startup import Startup
from megatron_patch.trainer.streams import Streams

JUDGED_MINUTES = 7 * 24 * 60
"""Of a collective, where the launcher judges who hangs (runs/watchdog.py): a scheduler may suspend a whole job for
longer than --distributed-timeout-minutes, which a collective counts and the launcher does not."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron_patch.trainer.callbacks import Callbacks, End, Rank


def main() -> None:
    """Train as the command line says; ends the process with a status other than 0 if anything went wrong."""
    gc.disable()  # until all is imported: 4,000 modules hold next to no garbage, and looking for it takes a tenth
    startup = Startup(BEGAN)
    early = parse_early(sys.argv[1:])
    os.environ["HF_HUB_OFFLINE"] = "1"  # tokenizers come from local folders; never try the network
    streams = Streams(early.output_dir, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    HEART.start(os.environ, streams.rank)
    try:
        end_with_parent(signal.SIGTERM)  # torchrun that is killed ends nobody: finish the step and save
        leave_signals_to_launcher()
        if streams.rank == 0:
            run_status.take_as_rank(early.output_dir, partial(print, file=streams.stderr, flush=True))
        _recorded(partial(_run, early, streams, startup))
    except BaseException as error:
        streams.report(error)
        if isinstance(error, StuckSave):  # a thread that never returns is waited for by Python
            os._exit(status_of(error))
        sys.exit(status_of(error))


def status_of(error: BaseException) -> int:
    """What a rank ends with: of `runs.recovery.Status`, or what Megatron asked for."""
    if isinstance(error, SpikeError):
        return error.status
    if isinstance(error, StuckSave):
        return Status.HUNG
    if isinstance(error, UserError) and not isinstance(error, MAY_PASS):
        return Status.NOT_AGAIN
    if echo_of(error) is not None:
        return Status.LOST
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code else 1


def _recorded(run: Callable[[], None]) -> None:
    """Let torchrun know how this rank failed, and when; one that only lost another has nothing to tell."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().initialize()
    try:
        run()
    except BaseException as error:
        status = status_of(error)
        if status == Status.LOST or (isinstance(error, SystemExit) and error.code in (None, 0)):
            raise
        note_failure(error, status)
        raise


def _run(early: Any, streams: Streams, startup: Startup) -> None:
    import torch

    startup.done("torch")

    from megatron_patch.backend.wandb_fixes import hide_idle_wandb

    hide_idle_wandb()
    enable(early.device)
    print("\n".join(["patches", *APPLIED]))

    from megatron_patch.backend import hooks
    from megatron_patch.backend.gpu.graphs import let_go_of_graphs
    from megatron_patch.backend.saving.asynchronous import finish_last_save, wait_for_last_save
    from megatron_patch.trainer.callbacks import Rank, make_all
    from megatron_patch.trainer.screen import Screen

    rank = Rank(
        rank=streams.rank,
        world_size=streams.world_size,
        output_dir=early.output_dir,
        device=torch.cuda.get_device_name() if early.device == "cuda" else "CPU process",
        unit="GPU" if early.device == "cuda" else "process",
        screen=Screen(streams.stdout, speaks=streams.rank == streams.world_size - 1),
        startup=startup,
    )
    callbacks = make_all(rank)
    hooks.observe(callbacks)
    try:
        end = _pretrain_to_an_end(rank, callbacks)
    except BaseException as error:
        if isinstance(error, Exception):
            finish_last_save()
        with suppress(RuntimeError):  # of a GPU that failed, which the error tells
            let_go_of_graphs()  # of a process that Megatron ends with a status, too
        raise
    finally:
        callbacks.close()
    if torch.distributed.is_initialized():
        wait_for_last_save()
        torch.distributed.barrier()
        torch.cuda.synchronize()
        let_go_of_graphs()
        torch.distributed.destroy_process_group()
    callbacks.end(end)


def _pretrain_to_an_end(rank: Rank, callbacks: Callbacks) -> End:
    """Train; Megatron ends the process where it is asked to stop, and this function does not let it."""
    from megatron_patch.backend.hooks import stopped_by_signal
    from megatron_patch.trainer.callbacks import End

    try:
        _pretrain(rank, callbacks)
    except SystemExit as stop:
        if stop.code:
            raise
        if not callbacks.started:
            raise TrainerError("ended-without-training") from stop
        iteration = callbacks.iteration
        if not stopped_by_signal() and (why := callbacks.stops()):
            rank.screen.say(localized("ended-early", step=iteration, why=why))
            return End(how="finished", cause=why, iteration=iteration)
        cause = _signal_name(rank.output_dir) if stopped_by_signal() else Message("ended-by-flag")
        rank.screen.say(localized("ended-by-signal", cause=cause, step=iteration, more=_how_to_go_on()))
        return End(how="stopped", cause=cause, iteration=iteration)
    return End(how="finished", cause=None, iteration=callbacks.iteration)


def _how_to_go_on() -> Message:
    from megatron.training import get_args

    return Message("ended-weights-only" if get_args().no_save_optim else "ended-goes-on")


def _signal_name(folder: Path) -> Message:
    """What the launcher was sent; it passes SIGTERM on, whichever it was."""
    holder = run_status.read_holder(folder)
    if holder is None or not holder.stopping:
        return Message("ended-by-unknown")
    return Message("uncoded", text=holder.stopping)


def _pretrain(rank: Rank, callbacks: Callbacks) -> None:
    from megatron.core.enums import ModelType
    from megatron.training import pretrain
    from megatron.training.argument_utils import pretrain_cfg_container_from_args
    from megatron.training.arguments import parse_and_validate_args

    from megatron_patch.backend import hooks, wheel_fixes
    from megatron_patch.trainer.checks import refuse_contradictions
    from megatron_patch.trainer.data.datasets import provide_datasets
    from megatron_patch.trainer.data.token_ids import token_ids
    from megatron_patch.trainer.step import forward_step
    from megatron_patch.trainer.summary import summary

    wheel_fixes.read_tokenizers_with(token_ids)
    gc.freeze()
    gc.enable()
    callbacks.built("Megatron")
    args = parse_and_validate_args(extra_args_provider=add_arguments)
    callbacks.built("arguments and tokenizer")
    hooks.interrupt_like_termination(args)
    refuse_contradictions(args)
    _prepare_backend(args, rank.screen.say)
    callbacks.arguments(args)
    for line in summary(args, rank.device):
        rank.screen.say(line.localized())
    if _is_finished(args):
        rank.screen.say(localized("ended-nothing-to-do", last=args.ckpt_step))
        return
    config = pretrain_cfg_container_from_args(args, _model_config(args, callbacks))
    provider = _sft_provider(args, rank) if args.sft_data else provide_datasets
    pretrain(config, provider, ModelType.encoder_or_decoder, forward_step)


def _sft_provider(args: Any, rank: Rank) -> Any:
    """Pretraining imports nothing of this: readers of conversations, templates, pyarrow, zstandard."""
    from megatron_patch.trainer.data.sft import sft_provider

    return sft_provider(args, rank.screen.say_here)


def _prepare_backend(args: Any, say: Callable[[str], None]) -> None:
    """What these arguments want of it."""
    from megatron_patch.backend import z_loss
    from megatron_patch.backend.gpu import graphs
    from megatron_patch.backend.saving import asynchronous, fallback, retention
    from megatron_patch.trainer import passes

    if args.background_save:
        asynchronous.save_in_the_background(args)
    if args.keep_checkpoints:
        retention.keep_newest(args.keep_checkpoints, say)
    fallback.fall_back(args, say)
    if args.cuda_graph_impl == "local":
        graphs.keep_track_of_graphs(say)
        graphs.save_random_states_as_numbers()
    if args.z_loss:
        z_loss.keep_log_z()
    passes.leave_out(args)
    if HEART.is_judged_alone(os.environ):
        args.distributed_timeout_minutes = JUDGED_MINUTES


def _model_config(args: Any, callbacks: Callbacks) -> Any:
    """Megatron's configuration of the model, with what its own function leaves out."""
    from megatron.training.argument_utils import gpt_config_from_args

    model_config = gpt_config_from_args(args)
    model_config.rope_scaling_factor = args.rope_scaling_factor  # 0.19.2 parses it and keeps 8.0
    model_config.transformer.fused_single_qkv_rope = args.fused_single_qkv_rope
    # Packed rows of several samples travel between pipeline stages as [b x s, 1, h], not [s, b, h].
    model_config.transformer.variable_seq_lengths |= args.sft_packing and args.micro_batch_size > 1
    # Weights that are read next need no random values first; fp8 weights take their scales from what is there.
    model_config.transformer.perform_initialization = bool(args.fp8) or not (
        args.hf_checkpoint or args.load or args.base_checkpoint
    )
    model_config.pre_wrap_hooks.append(partial(_after_construction, args, callbacks))
    return model_config


def _is_finished(args: Any) -> bool:
    from megatron_patch.trainer.summary import total_iterations

    if not args.load or args.finetune or not args.ckpt_step:
        return False
    ended = stopped_early(args.output_dir, args.ckpt_step, args.early_stop_patience)
    return bool(args.ckpt_step >= total_iterations(args) or ended)


def _after_construction(args: Any, callbacks: Callbacks, model_chunks: list[Any]) -> list[Any]:
    """Fill the fresh model from safetensors where asked to, each rank its slices."""
    from megatron_patch.backend.gpu.quantized import in_high_precision
    from megatron_patch.checkpoint.hf_start import load_hf_into

    callbacks.built("model")
    if args.hf_checkpoint:
        with in_high_precision(model_chunks):
            load_hf_into(model_chunks, args.hf_checkpoint)
        callbacks.built("weights")
    if args.lora_rank or args.freeze:
        from megatron_patch.trainer.adapters import prepare

        prepare(args, model_chunks)
        callbacks.built("adapters" if args.lora_rank else "frozen parts")
    return model_chunks
