"""Megatron's trainer on the CPU: device.py emulates cuda:0, layers.py is the layer without Transformer Engine."""
