"""What CUDA graphs of layers leave behind, as far as a machine without a GPU can see it. The rest: tests/gpu."""

from __future__ import annotations

import pytest
import torch

from megatron_patch.backend.gpu import graphs
from megatron_patch.backend.gpu.graphs import as_numbers, let_go_of_graphs


def test_random_states_are_saved_as_numbers() -> None:
    """A generator is an object of its device; its state is bytes, from which it goes on."""
    generator = torch.Generator().manual_seed(7)
    plain = torch.Generator().manual_seed(8).get_state()
    states = as_numbers({"of-graphs": generator, "without": plain})
    assert torch.equal(states["without"], plain)
    expected = torch.rand(3, generator=generator)
    again = torch.Generator()
    again.set_state(states["of-graphs"])
    assert torch.equal(torch.rand(3, generator=again), expected)


class Graph:
    """Of a GPU."""

    def __init__(self, error: RuntimeError | None = None) -> None:
        self.error, self.is_reset = error, False

    def reset(self) -> None:
        if self.error is not None:
            raise self.error
        self.is_reset = True


class Runner:
    """As Megatron's: both None until they are recorded."""

    def __init__(self, forward: Graph | None, backward: Graph | None = None) -> None:
        self.fwd_graph, self.bwd_graph = forward, backward


def test_one_graph_that_stays_keeps_no_other() -> None:
    """A collective in any graph that is left keeps the process from ending: memory ran out while one was recorded."""
    broken = RuntimeError("out of memory while it was recorded")
    whole = [Graph(), Graph(), Graph()]
    runners = [Runner(whole[0]), Runner(Graph(broken), whole[1]), Runner(None), Runner(whole[2])]
    graphs.RUNNERS.update(runners)
    with pytest.raises(RuntimeError, match="out of memory"):
        let_go_of_graphs()
    assert all(graph.is_reset for graph in whole) and not graphs.RUNNERS
