"""What a run would take, before anybody pays for it: step time, memory, the fastest layout. No GPU, no torch.

layouts.py     the layouts that a model and a number of GPUs allow, each with its memory
search.py      the fastest of them, by launch/step_time.py
failures.py    what failures cost a long run, and how often it should save
"""
