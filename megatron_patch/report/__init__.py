"""One self-contained page about one or several runs: `python -m megatron_patch.report RUN [RUN...]`."""
