"""Logits and loss only where something is trained: the LM head's rows for prompts and padding are not computed.

In finetuning half of the positions and more carry no label that counts. Their logits cost the LM head's three matmuls
and the cross-entropy's passes over 128k columns, and are then multiplied by 0. The sums of the others are made over
fewer rows, so their last bits may differ: on GPUs this is the default, on the CPU MP_SFT_LOGITS=trained asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from megatron_patch.backend import z_loss


def chosen_rows(loss_mask: torch.Tensor, multiple: int) -> torch.Tensor | None:
    """Which positions get logits: all trained ones, and untrained ones up to a multiple.

    Waits for the device, since the number of rows is a shape.

    Args:
        loss_mask: [b, s], the weight of each label, equal on all tensor-parallel ranks.
        multiple: the tile of a matmul, so that the rest would not be faster.
    Returns:
        int64 [n], ascending, of the positions [s, b] as one row; None where n would be all of them.
    """
    untrained = loss_mask.transpose(0, 1).reshape(-1) == 0
    total = untrained.numel()
    count = total - int(untrained.sum())
    wanted = max(1, -(-count // multiple)) * multiple
    if wanted >= total:
        return None
    order = untrained.to(torch.uint8).argsort(stable=True)  # the trained ones first, each kind in its order
    return order[:wanted].sort().values


class TakeRows(torch.autograd.Function):
    """Some rows of a table, each at most once; the gradient of the others is 0."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """table [m, h], rows int64 [n] -> [n, h]."""
        ctx.save_for_backward(rows)
        ctx.count = table.size(0)
        return table.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gradient [n, h] -> [m, h]."""
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.count, grad.size(1)).index_copy_(0, rows, grad), None


def losses_at_rows(
    *,
    hidden_states: torch.Tensor,
    output_layer: Any,
    output_weight: torch.Tensor | None,
    labels: torch.Tensor,
    context: torch.Tensor,
    compute_language_model_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scale_logits: Callable[[torch.Tensor], torch.Tensor],
    **unused: Any,
) -> torch.Tensor:
    """What the end of Megatron's `GPTModel` computes, at some positions: its `output_processor`.

    Args:
        hidden_states: [s, b, h], under sequence parallelism this rank's [s / TP, b, h].
        labels: [b, s].
        context: what `chosen_rows` gave.
    Returns:
        Cross-entropy in nats, [b, s]; 0 at the other positions. log Z of the z-loss is laid out alike.
    """
    batch, length = labels.shape
    hidden = _whole_sequence(hidden_states, output_layer)
    taken = TakeRows.apply(hidden.reshape(batch * length, -1), context).unsqueeze(1)  # [n, 1, h]
    with _sequence_gathered(output_layer):
        logits, _ = output_layer(taken, weight=output_weight)
    chosen = labels.transpose(0, 1).reshape(-1).index_select(0, context).unsqueeze(0)
    losses = compute_language_model_loss(chosen, scale_logits(logits))  # [1, n]
    log_z = z_loss.take()
    if log_z is not None:
        z_loss.keep(_at(context, log_z, batch, length))
    return _at(context, losses, batch, length)


def _at(rows: torch.Tensor, values: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    """values [1, n] at their positions of [b, s], 0 elsewhere."""
    flat = values.new_zeros(length * batch).index_copy(0, rows, values.reshape(-1))
    return flat.view(length, batch).transpose(0, 1).contiguous()


def _whole_sequence(hidden_states: torch.Tensor, output_layer: Any) -> torch.Tensor:
    """[s, b, h] on every tensor-parallel rank; backward adds the ranks' gradients and keeps this rank's part."""
    from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

    if not output_layer.sequence_parallel:
        return hidden_states
    return gather_from_sequence_parallel_region(
        hidden_states, tensor_parallel_output_grad=True, group=output_layer.tp_group
    )


@contextmanager
def _sequence_gathered(output_layer: Any) -> Iterator[None]:
    """The layer neither gathers its input nor adds up the input's gradient: `_whole_sequence` has done both."""
    before = output_layer.sequence_parallel, output_layer.disable_grad_reduce
    output_layer.disable_grad_reduce |= output_layer.sequence_parallel
    output_layer.sequence_parallel = False
    try:
        yield
    finally:
        output_layer.sequence_parallel, output_layer.disable_grad_reduce = before
