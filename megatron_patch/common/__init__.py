"""What every room uses, and what belongs to none: imports nothing of the other rooms.

messages.py, texts/, errors.py    what we say: codes with values, in English and Chinese
values.py, command_line.py        how a typed value is read; argparse without secrets in its errors
files.py, disk.py, checksum.py    files that are written whole or not at all
strict_json.py, records.py        JSON that somebody gives us
machine.py, network.py, hardware.py    what there is to compute with
threads.py, spread.py, parent.py  threads; work over threads and processes, which end with their parent
terminal.py, progress.py          what a person sees
"""
