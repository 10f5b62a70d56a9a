"""Megatron's memory-mapped dataset: PREFIX.bin has the tokens, PREFIX.idx the lengths and documents.

writer.py        written without torch or Megatron
reader.py        the one reader of .idx; its head needs no numpy
prepared.py      whether a run may train on one, as far as it is quickly seen
resumable.py     written over hours, killed at any time
merge.py         shards of one corpus, from several machines
"""
