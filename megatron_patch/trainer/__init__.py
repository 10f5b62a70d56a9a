"""What runs in every rank, around `megatron.training.pretrain`.

entry.py                    the program: arguments -> backend -> data, model, callbacks -> pretrain
arguments.py, checks.py     our own flags beside Megatron's, and what they cannot ask for together
passes.py                   passes over memory that a GPU leaves out
data/                       from files to the batch of a step
step.py                     forward step and loss
callbacks/                  what watches a run, one file each; loggers.py is the base of those that send elsewhere
summary.py, screen.py, streams.py    what a person reads; the rest goes to logs/rank_N.log
"""

import time

BEGAN = time.time()
"""When this process came here first, before it imported torch."""
