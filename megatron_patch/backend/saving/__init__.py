"""Checkpoints of a run: written, read, resumed.

asynchronous.py            a save from the step in which it begins to the name that the checkpoint gets
gpu_copies.py              copies in free GPU memory, so that the optimizer need not wait
host_copies.py, dcp_writer.py      the copy in RAM; the files, with the SHA-256 of each stored chunk
optimizer_shards.py        the distributed optimizer: every rank writes and reads what it holds
dcp_reader.py, restricted.py       reading with checksums; unpickling without running code
fallback.py, folders.py    a damaged checkpoint is set aside, and the newest good one is taken
retention.py               MP_KEEP_CHECKPOINTS
checkpoint_fixes.py, optimizer_fixes.py    what torch and Megatron get wrong
"""
