"""What CUDA graphs of layers leave behind, as far as a machine without a GPU can see it. The rest: tests/gpu."""

from __future__ import annotations

import torch

from megatron_patch.backend.gpu.graphs import as_numbers


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
