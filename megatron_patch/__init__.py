"""Train Llama 3.1 with stock Megatron-Core, driven by 25 positional values."""

__version__ = "0.1.0"
