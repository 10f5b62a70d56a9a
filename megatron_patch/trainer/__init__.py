"""What runs in every rank: batch, loss, forward step, data, progress and resume around `megatron.training.pretrain`."""

import time

BEGAN = time.time()
"""When this process came here first, before it imported torch."""
