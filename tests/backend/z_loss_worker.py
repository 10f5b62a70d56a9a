"""One rank of a tensor-parallel group: loss and gradient of its columns, against the plain formula on all of them."""

from __future__ import annotations

import resource
import sys

import torch

from megatron_patch.backend import z_loss
from megatron_patch.backend.z_loss import CrossEntropyWithLogZ

WEIGHT = 0.1


def plain(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy, log Z, and the gradient of `mean(loss) + WEIGHT * mean(log Z ^ 2)`, by the textbook."""
    logits = logits.clone().requires_grad_()
    log_z = torch.logsumexp(logits, dim=-1)
    loss = log_z - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    (loss.mean() + WEIGHT * log_z.square().mean()).backward()
    assert logits.grad is not None
    return loss.detach(), log_z.detach(), logits.grad


def say(*words: object) -> None:
    """One line in one piece: the ranks share the pipe."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")


def main() -> None:
    """Print the largest differences, and memory used beyond the logits' own, in units of the logits."""
    torch.distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    group = torch.distributed.group.WORLD
    assert group is not None
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 2, 64, generator=generator) * 8
    labels = torch.randint(64, (6, 2), generator=generator)
    z_loss.CHUNK_BYTES = 4 * 64 * 5  # several chunks, the last one shorter
    mine = whole.chunk(group.size(), dim=-1)[group.rank()].contiguous().requires_grad_()
    leaf = mine * 1.0  # as from the output layer: not a leaf
    loss, log_z = CrossEntropyWithLogZ.apply(leaf, labels, group)
    (loss.mean() + WEIGHT * log_z.square().mean()).backward()
    assert mine.grad is not None
    expected = plain(whole, labels)
    found = (loss.detach(), log_z.detach(), mine.grad)
    parts = (*expected[:2], expected[2].chunk(group.size(), dim=-1)[group.rank()])
    differences = [float((a - b).abs().max()) for a, b in zip(found, parts, strict=True)]
    say("differences", *differences)

    z_loss.CHUNK_BYTES = 1 << 20
    large = torch.randn(512, 8, 16384 // group.size()).requires_grad_()  # 256 MB over all ranks
    made = large * 1.0
    place = made.data_ptr()
    grads: list[int] = []
    made.register_hook(lambda grad: grads.append(grad.data_ptr()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss, log_z = CrossEntropyWithLogZ.apply(made, torch.zeros(512, 8, dtype=torch.int64), group)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.autograd.grad(loss.mean() + log_z.square().mean(), made)
    say("in place", grads == [place], (after - before) * 1024 / (made.numel() * 4))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
