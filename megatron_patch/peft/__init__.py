"""Adapters: LoRA beside frozen weights. settings.py has the choice, lora.py the mathematics, insert.py the way in.

The seam to Megatron's own adapters (megatron.core.transformer.peft, not in 0.19.2): `insert.add_adapters` is the only
function that changes a model; settings, folders and checkpoints know no module of it.
"""
