"""A run as it goes, in a terminal: `python -m megatron_patch.watch RUN`."""
