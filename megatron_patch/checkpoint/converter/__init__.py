"""The converter, in the order of its way.

positions.py, options.py    ten positions as in Pai-Megatron-Patch, or named flags
job.py                      what will be done, found out before the first byte is written
run_conversion.py           done, the source held against its manifest meanwhile
convert.py, conversion.py   the streams of blocks, both ways
"""
