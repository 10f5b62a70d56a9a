"""RMSNorm for the local layer spec, with sequence parallelism."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm over the last dimension, its weight marked for Megatron.

    Megatron 0.19.2's own `WrappedTorchNorm` asserts against sequence parallelism. The mark makes
    `finalize_model_grads` sum the weight's gradient over the tensor-parallel group, whose ranks saw different tokens.

    Args:
        config: `layernorm_zero_centered_gamma` is not supported.
        hidden_size: length of the last dimension.
        eps: added to the mean square.
    Raises:
        ValueError: another normalization, or one-centred weights, are asked for.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any) -> None:
        if config.normalization != "RMSNorm" or config.layernorm_zero_centered_gamma:
            raise ValueError(
                f"the local layer spec has RMSNorm with plain weights only, not {config.normalization} with "
                f"layernorm_zero_centered_gamma={config.layernorm_zero_centered_gamma}"
            )
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


class StandaloneRMSNorm(RMSNorm):
    """A norm that Transformer Engine does not fuse into the linear that follows: after the last layer, and q/k norm.

    Transformer Engine's has an `_extra_state`, empty without fp8, and its loader asks for the key: we write it too, so
    that a GPU loads what a CPU saved. The other norms of a layer need none.

    The weights of q/k norm, [head_dim], act on each head: with tensor parallelism a rank's gradient covers its own
    heads, and `finalize_model_grads` of 0.19.2 sums them over the group, with sequence parallelism and without (it
    knows them by their names).
    """

    def get_extra_state(self) -> None:
        """Nothing, under the key that Transformer Engine expects."""
        return

    def set_extra_state(self, state: Any) -> None:
        """Ignore what a GPU kept for fp8."""
