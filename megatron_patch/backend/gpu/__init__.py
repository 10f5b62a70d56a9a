"""What Transformer Engine and Megatron need on a GPU."""
