"""A Hugging Face model's forward pass over many batches: nothing waits for the GPU, and shapes that come again can be
one CUDA graph each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import masking_utils

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Tokens [rows, width] on the device -> logits [rows, width, vocabulary]."""


@contextmanager
def never_packed() -> Iterator[None]:
    """While inside, transformers does not look whether positions start again within a row.

    It looks in each forward pass without a cache, and waits for the GPU to know; where a model counts the positions
    itself, as ours do, they never start again.
    """
    before = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = before


class ShapeGraphs:
    """A forward pass whose kernels are launched together where the shape is that of the batch before.

    The same kernels for the same shape, so the same floats. Launched one by one, the kernels of a batch of 1,500 tokens
    are done sooner than the next ones are launched. The first batch of a shape runs as ever, so that its kernels are
    chosen and loaded; the second is captured while the first runs. Shapes come sorted, so that only the last one
    counts; all graphs share their memory, and none is launched again after the next is captured.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self._shape: torch.Size | None = None
        self._tokens: torch.Tensor | None = None
        """What the graph of this shape reads; None until it is captured."""
        self._graphs: list[torch.cuda.CUDAGraph] = []
        """Kept to the end: launches of earlier ones may be under way."""

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """The logits are overwritten by the next call."""
        if tokens.shape != self._shape:
            self._shape, self._tokens = tokens.shape, None
            return self._forward(tokens)
        if self._tokens is None:
            self._tokens = tokens.clone()
            self._logits = self._capture(self._tokens)
        self._tokens.copy_(tokens)
        self._graphs[-1].replay()
        return self._logits

    def _capture(self, tokens: torch.Tensor) -> torch.Tensor:
        """Not by `torch.cuda.graph`, which waits for the GPU and empties torch's cache of memory."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                logits = self._forward(tokens)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        self._graphs.append(graph)
        return logits
