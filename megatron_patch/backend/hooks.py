"""What the trainer is told while Megatron's training loop runs.

Megatron 0.19.2 has no callbacks: ten functions of its training module are wrapped, none of them changed.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from megatron_patch.backend.flops import step_flops
from megatron_patch.backend.gpu_memory import GPU_MEMORY
from megatron_patch.backend.patching import wrap
from megatron_patch.backend.step_gate import LOSS_KEY as LOSS_KEY
from megatron_patch.backend.step_gate import last_refusal
from megatron_patch.common.messages import Message
from megatron_patch.runs.heartbeat import HEART

Z_LOSS_KEY = "z loss"
"""Of the mean square of log Z in the dictionary that the loss function returns, under --z-loss."""

PARTS = {
    "initialize_megatron": "process groups",
    "get_megatron_optimizer": "optimizer",
    "load_checkpoint": "checkpoint",
}
"""What ends with each of these functions, on the way to the first step."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step, as the last rank saw it."""

    iteration: int
    loss: float | None
    """Mean over the loss tokens of the global batch, float32; None on ranks without the last pipeline stage."""
    lr: float | None
    """The learning rate that this step used (Megatron logs the next step's)."""
    grad_norm: float | None
    """Before clipping; None when the step was skipped."""
    skipped: bool
    """The gradients overflowed, or the step was refused: the weights did not change."""
    refusal: str | None = None
    """Why the step was refused; None where it was not."""
    consumed_samples: int
    """Training samples since iteration 0, this step included, over all ranks."""
    batch_samples: int
    seconds: float
    """Wall time of data, forward, backward and optimizer."""
    flops: float
    """Floating-point operations of the whole step, over all ranks: flops.py says what is counted."""
    z_loss: float | None = None
    """Mean of log(sum(exp(logits)))^2 over the loss tokens, before its weight; None without --z-loss."""
    peak_memory_bytes: int
    """Highest so far of all ranks: allocated memory on a GPU, resident set on a CPU."""
    allocated_bytes: int | None = None
    """Highest of all ranks since the step before: memory of tensors on a GPU; None on a CPU."""
    reserved_bytes: int | None = None
    """And what torch held for them."""


class Observer(Protocol):
    """What `observe` calls, on every rank; `trainer/callbacks/base.py` says when, method by method."""

    def built(self, part: str) -> None: ...

    def train_start(self, args: Any, model: list[Any]) -> None: ...

    def step_begins(self, iteration: int) -> None: ...

    def step(self, step: Step) -> None: ...

    def evaluated(self, iteration: int, split: str, loss: float | None, parts: dict[str, float]) -> None: ...

    def stops(self) -> Message | None: ...

    def saved(self, iteration: int) -> None: ...


def observe(observer: Observer) -> None:
    """Have `observer` told about every step and evaluation. Call it once, after `enable`."""
    import megatron.training.training as training

    watch = _StepWatch()
    for name, part in PARTS.items():
        _tell_when_done(training, name, part, observer)

    @wrap(training, "train", why="0.19.2 has no callback between loading and training")
    def train(original: Callable[..., Any], forward_step: Any, model: list[Any], *args: Any, **kwargs: Any) -> Any:
        observer.train_start(training.get_args(), model)
        return original(forward_step, model, *args, **kwargs)

    @wrap(training, "train_step", why="0.19.2 logs the learning rate of the next step")
    def train_step(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        observer.step_begins(kwargs["iteration"] + 1)
        optimizer = args[3]
        watch.lr = training.get_canonical_lr_for_logging(optimizer.param_groups)
        watch.started = time.perf_counter()
        return original(*args, **kwargs)

    @wrap(training, "training_log", why="0.19.2 rounds the loss and averages it over --log-interval")
    def training_log(original: Callable[..., Any], loss_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        observer.step(_measure(training, watch, loss_dict, *args, **kwargs))
        return original(loss_dict, *args, **kwargs)

    why = "0.19.2 tells nobody that training goes on after a checkpoint, and saves twice where the batch grows"

    @wrap(training, "save_checkpoint", why="0.19.2 tells nobody that a save begins")
    def begin_save(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        HEART.advance("a save", timed=False)
        return original(*args, **kwargs)

    @wrap(training, "save_checkpoint_and_time", why=why)
    def save(original: Callable[..., Any], iteration: int, *args: Any, **kwargs: Any) -> Any:
        if iteration == watch.saved:
            return None
        watch.saved = iteration
        result = original(iteration, *args, **kwargs)
        HEART.advance("a save")
        observer.saved(iteration)
        return result

    _observe_evaluation(training, observer)
    _let_stop(training, observer)


def _let_stop(training: Any, observer: Observer) -> None:
    """End after a step, with a checkpoint, where the observer says so."""

    @wrap(training, "checkpoint_and_decide_exit", why="0.19.2 ends by signals, time and counts, not by a loss")
    def decide(original: Callable[..., Any], *parts: Any) -> bool:
        if original(*parts):
            return True
        if not observer.stops():
            return False
        args, iteration = training.get_args(), parts[3]
        if args.save and not (args.save_interval and iteration % args.save_interval == 0):
            *rest, data = parts
            training.save_checkpoint_and_time(*_for_saving(rest), train_data_iterator=data)
        return True


def _for_saving(parts: list[Any]) -> list[Any]:
    """`save_checkpoint_and_time` takes the iteration first, `checkpoint_and_decide_exit` fourth."""
    model, optimizer, scheduler, iteration, flops, context = parts
    return [iteration, model, optimizer, scheduler, flops, context]


def _tell_when_done(training: Any, name: str, part: str, observer: Observer) -> None:
    @wrap(training, name, why="0.19.2 tells nobody how far its start is")
    def timed(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        observer.built(part)
        return result


@dataclass
class _StepWatch:
    lr: float | None = None
    started: float = 0.0
    saved: int | None = None
    """Newest iteration that was saved."""
    peak: int = 0
    """Highest memory so far, of this rank."""

    def memory_of_all_ranks(self) -> dict[str, Any]:
        """The fields of Step; the peak begins anew with each step, and is without what a save has borrowed."""
        if torch.cuda.is_available():
            now = list(GPU_MEMORY.step_peak())
        else:
            now = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0]  # Linux counts it in KiB
        self.peak = max(self.peak, now[0])
        highest = torch.tensor([self.peak, *now], dtype=torch.int64, device="cuda")
        torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
        peak, allocated, reserved = map(int, highest.tolist())
        gpu = torch.cuda.is_available()
        return {
            "peak_memory_bytes": peak,
            "allocated_bytes": allocated if gpu else None,
            "reserved_bytes": reserved if gpu else None,
        }


def _measure(
    training: Any,
    watch: _StepWatch,
    loss_dict: dict[str, torch.Tensor],
    total_loss_dict: Any,
    learning_rate: float | None,
    iteration: int,
    loss_scale: float,
    report_memory_flag: bool,
    skipped_iter: int,
    grad_norm: float | None,
    *rest: Any,
    seqlen_squared_sum_in_batch: float | None = None,
    total_real_tokens_in_batch: float | None = None,
    **unused: Any,
) -> Step:
    """The arguments after `watch` are those of `training_log`."""
    args = training.get_args()
    loss = float(loss_dict[LOSS_KEY]) if LOSS_KEY in loss_dict else None  # waits for the device
    seconds = time.perf_counter() - watch.started
    batch_samples = args.micro_batch_size * args.data_parallel_size * training.get_num_microbatches()
    flops = step_flops(training, args, batch_samples, seqlen_squared_sum_in_batch, total_real_tokens_in_batch)
    return Step(
        iteration=iteration,
        loss=loss,
        lr=watch.lr,
        grad_norm=None if grad_norm is None else float(grad_norm),
        skipped=bool(skipped_iter),
        refusal=last_refusal(),
        consumed_samples=args.consumed_train_samples,
        batch_samples=batch_samples,
        seconds=seconds,
        flops=flops,
        z_loss=float(loss_dict[Z_LOSS_KEY]) if Z_LOSS_KEY in loss_dict else None,
        **watch.memory_of_all_ranks(),
    )


def _observe_evaluation(training: Any, observer: Observer) -> None:
    results: list[dict[str, float]] = []
    done: set[tuple[int, str]] = set()

    @wrap(training, "evaluate", why="0.19.2 returns the losses to a function that only prints them")
    def evaluate(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        results.append({name: float(loss) for name, loss in (result[0] or {}).items()})
        return result

    why = "0.19.2 prints the validation loss, returns nothing, and may validate twice after the last iteration"

    @wrap(training, "evaluate_and_print_results", why=why)
    def evaluate_and_print_results(original: Callable[..., Any], prefix: str, *args: Any, **kwargs: Any) -> Any:
        split = "test" if prefix.endswith("test set") else "validation"
        iteration = args[3] if len(args) > 3 else kwargs["iteration"]
        if (iteration, split) in done:
            return
        done.add((iteration, split))
        results.clear()
        original(prefix, *args, **kwargs)
        for losses in results:
            parts = {key.removeprefix(f"{LOSS_KEY} "): losses[key] for key in losses if key.startswith(f"{LOSS_KEY} ")}
            observer.evaluated(iteration, split, losses.get(LOSS_KEY), parts)


def interrupt_like_termination(args: Any) -> None:
    """Let Ctrl-C, a closed terminal and Slurm's early warning end the run as SIGTERM does: after the step, saved.

    Megatron 0.19.2 handles one signal, SIGTERM unless `--exit-signal` says otherwise.
    """
    if args.exit_signal_handler:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            if signal.getsignal(number) != signal.SIG_IGN:  # our torchrun passes them on as SIGTERM
                signal.signal(number, signal.getsignal(args.exit_signal))


def stopped_by_signal() -> bool:
    """Whether this rank was asked to stop by a signal that Megatron handles."""
    from megatron.training import get_args, get_signal_handler

    return get_args().exit_signal_handler and any(get_signal_handler().signals_received())
