"""The NeMo scripts' flags, which fill the same 25 values."""
