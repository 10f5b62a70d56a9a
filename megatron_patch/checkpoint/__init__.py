"""Checkpoints: Hugging Face <-> Megatron-Core, streamed and checked. Importing this package imports no torch.

    contents.py, configuration.py    what a path holds, and whose architecture and tokenizer it is: the one answer
    cli.py, converter/     `python -m megatron_patch.checkpoint`: from its command line to the written folder
    formats/               safetensors, torch_dist and per-rank files, read and written by row ranges
    check/                 both models over the same tokens, layer by layer
    hf_start.py            training straight from a Hugging Face folder
    export.py, background.py    a run's checkpoint as a Hugging Face folder, also while it trains
    adapters.py, base_weights.py    LoRA adapters to PEFT's folder, or merged into their base
    hf_model.py            any path as something that transformers can load
    store.py, manifest.py, verify.py    folders that appear whole or not at all; SHA-256

`models/weight_map.py` is the one table of names and layouts; everything here reads it.
"""
