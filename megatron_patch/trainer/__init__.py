"""What runs in every rank: batch, loss, forward step, data, progress and resume around `megatron.training.pretrain`."""
