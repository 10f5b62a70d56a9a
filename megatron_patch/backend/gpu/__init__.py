"""What Transformer Engine and Megatron need on a GPU: faster kernels, the libraries that torch brought, fp8's state."""
