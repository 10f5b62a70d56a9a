"""Forward step and loss, as `megatron.training.pretrain` wants them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from megatron.core import mpu
from megatron.core.utils import get_attr_wrapped_model
from megatron.training import get_args

from megatron_patch.backend import z_loss
from megatron_patch.backend.flops import count_logits
from megatron_patch.backend.hooks import LOSS_KEY, Z_LOSS_KEY
from megatron_patch.backend.trained_positions import chosen_rows, losses_at_rows
from megatron_patch.runs.heartbeat import HEART
from megatron_patch.trainer.data.batch import Batch, get_batch
from megatron_patch.trainer.stopwatch import Stopwatch

FORWARD = Stopwatch()
"""Of this rank's forward passes: what the callback of stragglers compares."""


def forward_step(data: Iterator[Any] | None, model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
    """Run one micro batch through this rank's model chunk.

    Returns:
        Per-token losses [b, s / CP] on the last pipeline stage, hidden states [s / CP, b, h] elsewhere; and the
        function that turns the former into the loss.
    """
    HEART.advance("forward and backward" if torch.is_grad_enabled() else "validation")
    batch = get_batch(data, get_attr_wrapped_model(model, "vp_stage"))
    rows = _logit_rows(batch)
    with FORWARD.measured():
        output = model(
            batch.tokens,
            batch.position_ids,
            batch.attention_mask,
            labels=batch.labels,
            loss_mask=batch.loss_mask,
            packed_seq_params=batch.packed,
            output_processor=None if rows is None else losses_at_rows,
            output_processor_context=rows,
        )
    return output, partial(loss_function, batch.loss_mask, batch.sources, z_loss.take())


def _logit_rows(batch: Batch) -> torch.Tensor | None:
    """Positions that get logits under --trained-logits; None for all, and where no loss is computed."""
    multiple = get_args().trained_logits
    if not multiple or batch.labels is None or batch.loss_mask is None:
        return None
    rows = chosen_rows(batch.loss_mask, multiple)
    count_logits(batch.loss_mask.numel() if rows is None else rows.numel())
    return rows


def loss_function(
    loss_mask: torch.Tensor | None, sources: torch.Tensor | None, log_z: torch.Tensor | None, losses: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Sum the loss over the tokens that count; Megatron divides by their number over the whole batch.

    Args:
        loss_mask: [b, s / CP], the weight of each token; None only on stages that compute no loss.
        sources: [b], which validation set each row is of, or None.
        log_z: [b, s / CP], logarithm of the softmax's sum, under --z-loss; None without.
        losses: [b, s / CP], cross-entropy in nats.
    Returns:
        Sum of the losses (float32), number of tokens (int32), and [sum, number] under the name it is logged by; with
        `sources` also for each validation set.
    """
    assert loss_mask is not None
    args = get_args()
    weighted, mask = losses.view(-1).float() * loss_mask.view(-1), loss_mask.view(-1).float()
    total = torch.sum(weighted)
    number = _number(mask, args)
    logged = {LOSS_KEY: torch.stack([total.detach(), number.float()])}
    if log_z is not None:  # after the loss was noted: what is shown stays the cross-entropy
        squares = torch.sum(log_z.view(-1).square() * loss_mask.view(-1))
        logged[Z_LOSS_KEY] = torch.stack([squares.detach(), number.float()])
        total = total + args.z_loss * squares
    if sources is not None and len(args.validation_names) > 1:
        for index, name in enumerate(args.validation_names):
            of_set = (sources == index).repeat_interleave(mask.numel() // sources.numel()).float()
            pair = torch.stack([(weighted * of_set).sum(), _number(mask * of_set, args).float()])
            logged[f"{LOSS_KEY} {name}"] = pair
    return total, number, logged


def _number(mask: torch.Tensor, args: Any) -> torch.Tensor:
    """What the sum of the losses is divided by, int32.

    Under --sft-average sequence the weights of a sample add up to 1, but over all context-parallel ranks: their sum
    is whole only there, and rank 0 speaks for them.
    """
    number = mask.sum().detach()
    if args.sft_average == "sequence":
        group = mpu.get_context_parallel_group()
        if group.size() > 1:
            torch.distributed.all_reduce(number, group=group)
            number = number * (group.rank() == 0)
    return number.round().to(torch.int)
