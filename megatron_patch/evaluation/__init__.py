"""lm_eval on CMMLU, C-Eval and other tasks, without a network. `__main__.py` is evaluate.sh.

options.py                      the command line
benchmarks.py, data.py, archives.py, install_data.py    questions as their authors publish them: found and verified
tasks.py, any_tasks.py, local_datasets.py, cards.py     lm_eval's own tasks, with data of this machine
run.py, scoring.py, prefix.py, contexts.py              the models' answers, faster
results.py, records.py, compare.py                      what is left behind, and two of them side by side
"""
