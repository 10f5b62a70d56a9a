"""Cross-entropy and the logarithm of its normaliser, for the z-loss, in the memory of the logits.

z-loss = mean of log(Z)^2 with Z = sum(exp(logits)) of a token: it keeps the logits from drifting (PaLM,
arXiv:2204.02311, section 5, weight 1e-4). Megatron 0.19.2 has one for the router of its experts only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from megatron_patch.backend.patching import replace

CHUNK_BYTES = 128 << 20
"""Most bytes of fp32 that a pass over the logits holds at once."""

_kept: list[torch.Tensor] = []
"""log Z of the micro batch whose loss was computed last, [b, s], until `take` fetches it."""


class CrossEntropyWithLogZ(torch.autograd.Function):
    """Vocabulary-parallel cross-entropy and log Z of each token, all sums in fp32.

    Forward reads the logits in chunks of rows; backward writes the gradient over them. Nothing of their size is made.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, group: torch.distributed.ProcessGroup
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            logits: [s, b, v / TP], contiguous; not to be read again after backward.
            labels: [s, b], over the whole vocabulary.
            group: the tensor-parallel ranks.
        Returns:
            Cross-entropy in nats and log Z, each [s, b] in fp32.
        """
        rows, targets = logits.view(-1, logits.size(-1)), labels.reshape(-1)
        highest = rows.amax(dim=-1).float()
        _reduce(highest, torch.distributed.ReduceOp.MAX, group)
        local, here = _local_targets(targets, rows.size(-1), group)
        predicted = torch.where(here, rows.gather(1, local.unsqueeze(1)).squeeze(1).float(), 0.0)
        total = torch.empty_like(highest)
        for part in _chunks(rows):
            total[part] = (rows[part].float() - highest[part].unsqueeze(1)).exp_().sum(dim=-1)
        sums = torch.stack([total, predicted])
        _reduce(sums, torch.distributed.ReduceOp.SUM, group)
        log_z = sums[0].log() + highest
        ctx.save_for_backward(logits, local, here, log_z)
        return (log_z - sums[1]).view_as(labels), log_z.view_as(labels)

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, grad_log_z: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """d loss = softmax - one-hot, d log Z = softmax."""
        logits, local, here, log_z = ctx.saved_tensors
        rows = logits.view(-1, logits.size(-1))
        grad_loss = grad_loss.reshape(-1)
        weight = grad_loss + grad_log_z.reshape(-1)
        for part in _chunks(rows):
            gradient = (rows[part].float() - log_z[part].unsqueeze(1)).exp_().mul_(weight[part].unsqueeze(1))
            hit = torch.where(here[part], grad_loss[part], 0.0)
            gradient.scatter_add_(1, local[part].unsqueeze(1), -hit.unsqueeze(1))
            rows[part] = gradient.to(rows.dtype)
        return logits, None, None


def _local_targets(
    targets: torch.Tensor, columns: int, group: torch.distributed.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor]:
    """Index of each target among this rank's columns (0 where it is elsewhere), and whether it is here."""
    local = targets - columns * group.rank()
    here = (local >= 0) & (local < columns)
    return torch.where(here, local, 0), here


def _chunks(rows: torch.Tensor) -> Iterator[slice]:
    step = max(1, CHUNK_BYTES // (4 * rows.size(1)))
    for start in range(0, rows.size(0), step):
        yield slice(start, start + step)


def _reduce(tensor: torch.Tensor, operation: Any, group: torch.distributed.ProcessGroup) -> None:
    if group.size() > 1:
        torch.distributed.all_reduce(tensor, op=operation, group=group)


def keep_log_z() -> None:
    """Compute the language model's loss by this file's function, and keep log Z for `take`."""
    from megatron.core.models.common.language_module.language_module import LanguageModule

    def compute_language_model_loss(self: Any, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """labels [b, s], logits [s, b, v / TP] -> losses [b, s]."""
        group = self.pg_collection.tp
        loss, log_z = CrossEntropyWithLogZ.apply(logits.contiguous(), labels.transpose(0, 1).contiguous(), group)
        keep(log_z.transpose(0, 1).contiguous())
        return loss.transpose(0, 1).contiguous()

    why = "0.19.2 does not hand out the normaliser that the z-loss needs"
    replace(LanguageModule, "compute_language_model_loss", compute_language_model_loss, why=why)


def keep(log_z: torch.Tensor) -> None:
    """Hold log Z of a micro batch, [b, s], until `take` fetches it."""
    _kept[:] = [log_z]


def take() -> torch.Tensor | None:
    """log Z of the micro batch that has just been computed, [b, s]; None where no loss was computed."""
    return _kept.pop() if _kept else None
