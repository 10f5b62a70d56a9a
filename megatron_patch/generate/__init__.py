"""Asking a model: `megatron-patch chat` and `megatron-patch generate`."""
