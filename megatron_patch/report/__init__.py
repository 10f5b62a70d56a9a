"""One self-contained page about one or several runs: `python -m megatron_patch.report RUN [RUN...]`.

collect.py, records.py    what runs, checks and evaluations have left in a folder
page.py, templates/       the page
training.py, scores.py, layer_check.py, profile.py, remarks.py    its parts
"""
