"""Is this machine ready to train? `python -m megatron_patch.doctor` says what is wrong and what to do about it."""
