"""Train Llama, Qwen and Mistral with stock Megatron-Core, driven by 25 positional values.

The way of a command:

    launch/     25 values and MP_ variables -> RunConfig -> Plan -> flags of Megatron's parser -> torchrun
    trainer/    in each rank: flags -> data, model, callbacks -> megatron.training.pretrain
    backend/    what Megatron and torch do otherwise meanwhile: on the CPU, on a GPU, where checkpoints are written

Each room's __init__.py has a map of its files; AGENTS.md says where what is found.
"""

__version__ = "0.1.0"
