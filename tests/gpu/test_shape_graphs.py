"""A CUDA graph for each shape of a batch: the floats of kernels that are launched one by one."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_patch.evaluation.forward import ShapeGraphs, never_packed


def test_the_same_floats() -> None:
    """Shapes that come once, twice and often, and one that comes again later, each batch with other tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1024, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2
    )
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(tokens, use_cache=False).logits  # type: ignore[no-any-return]

    shapes = [(16, 90)] * 5 + [(16, 89)] + [(16, 88)] * 2 + [(16, 77)] * 4 + [(3, 77)] + [(16, 90)] * 3
    batches = [torch.randint(32000, shape, device="cuda") for shape in shapes]
    graphs, found = ShapeGraphs(forward), []
    with never_packed():
        for tokens in batches:
            found.append(graphs(tokens)[:, -1].clone())  # nothing waits here, as in scoring
    for tokens, logits in zip(batches, found, strict=True):
        assert torch.equal(logits, forward(tokens)[:, -1])
    assert len({float(logits.float().sum()) for logits in found}) == len(found)
