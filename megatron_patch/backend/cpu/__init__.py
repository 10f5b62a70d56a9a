"""Megatron's trainer on the CPU: device, attention, layers without Transformer Engine."""
