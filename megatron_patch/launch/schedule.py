"""Tokens into iterations, in the open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long the run is; all counts in iterations unless said otherwise."""

    train_iters: int
    warmup_iters: int
    """Linear from 0; inside the decay, which Megatron counts from iteration 0."""
    decay_iters: int
    """End of the cosine: the last iteration."""
    tokens_per_iteration: int
    micro_batches: int
    """Forward and backward passes of one rank in one iteration."""
    eval_interval: int
    eval_iters: int
    """0 = no validation."""
    save_interval: int
    arithmetic: tuple[str, ...]
    """How the counts came about, for the plan."""

    def saves(self, done: int = 0) -> int:
        """Checkpoints that are written after `done` iterations: one in each interval, and the last."""
        inside = self.train_iters // self.save_interval - done // self.save_interval
        return inside + (self.train_iters % self.save_interval > 0)


def count_iterations(value: int, sft: bool, global_batch_size: int, seq_len: int) -> tuple[int, str]:
    """Turn TRAIN_ or WARMUP_TOKENS_OR_ITERS into iterations.

    Returns:
        Iterations, rounded down; and the arithmetic in words.
    """
    if sft:
        return value, f"{value} iterations (under SFT the value counts iterations, not tokens)"
    tokens = global_batch_size * seq_len
    iterations, left = divmod(value, tokens)
    rest = f", {left} tokens left over" if left else ""
    return iterations, f"{value} tokens / ({global_batch_size} x {seq_len}) = {iterations} iterations{rest}"
