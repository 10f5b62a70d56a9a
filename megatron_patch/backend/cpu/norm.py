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
        self.weight.sequence_parallel = config.sequence_parallel


class FinalRMSNorm(RMSNorm):
    """The norm after the last layer.

    Transformer Engine's has an `_extra_state`, empty without fp8, and its loader asks for the key: we write it too, so
    that a GPU loads what a CPU saved. The layers' norms need none, as TE fuses them into the linear that follows.
    """

    def get_extra_state(self) -> None:
        """Nothing, under the key that Transformer Engine expects."""
        return

    def set_extra_state(self, state: Any) -> None:
        """Ignore what a GPU kept for fp8."""
