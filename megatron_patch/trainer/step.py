"""Forward step and loss, as `megatron.training.pretrain` wants them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from megatron.core.rerun_state_machine import get_rerun_state_machine
from megatron.core.utils import get_attr_wrapped_model
from megatron.training import get_args

from ..backend.hooks import LOSS_KEY
from .batch import get_batch

FAULTS = ((torch.isnan, "NaN"), (torch.isinf, "infinity"))


def forward_step(data: Iterator[Any] | None, model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
    """Run one micro batch through this rank's model chunk.

    Returns:
        Per-token losses [b, s / CP] on the last pipeline stage, hidden states [s / CP, b, h] elsewhere; and the
        function that turns the former into the loss.
    """
    vp_stage = get_attr_wrapped_model(model, "vp_stage")
    tokens, labels, loss_mask, attention_mask, position_ids = get_batch(data, vp_stage)
    output = model(tokens, position_ids, attention_mask, labels=labels, loss_mask=loss_mask)
    return output, partial(loss_function, loss_mask)


def loss_function(
    loss_mask: torch.Tensor, losses: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Sum the loss over the tokens that count; Megatron divides by their number over the whole batch.

    Args:
        loss_mask: [b, s / CP], 1 where the token counts.
        losses: [b, s / CP], cross-entropy in nats.
    Returns:
        Sum of the losses (float32), number of tokens (int32), and [sum, number] under the name it is logged by.
    """
    mask = loss_mask.view(-1).float()
    total = torch.sum(losses.view(-1).float() * mask)
    number = mask.sum().detach().to(torch.int)
    if get_args().check_for_nan_in_loss_and_grad:
        for is_fault, name in FAULTS:
            get_rerun_state_machine().validate_result(
                result=total,
                rejection_func=is_fault,
                message=f"found {name} in the loss of one micro batch",
                tolerance=0.0,
                fatal=True,
            )
    logged = torch.cat([total.detach().view(1), number.view(1)])
    return total, number, {LOSS_KEY: logged}
