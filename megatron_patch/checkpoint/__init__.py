"""Checkpoints: Hugging Face <-> Megatron-Core, streamed and checked.

`models/weight_map.py` is the one table of names and layouts; everything else here reads it. Importing this package
imports no torch, so that a bad command line is refused at once.
"""
