"""From 25 values to a torchrun command. Runs once, on the machine where you type; knows no torch.

`driver.py` is the whole way in one file. In the order of that way:

    config.py, variables/      the 25 positions and the MP_ variables, a row each: how a value is read and checked
    environment.py             this machine, and its place among several
    resolve.py                 from values to facts, step by step; inputs.py and weights.py look at what the paths hold
    checks/                    values that are right alone and wrong together; problems.py says what is wrong
    epochs.py                  a length in epochs, counted before the plan is made
    build_plan.py -> plan.py   the Plan, of layout.py, schedule.py, memory.py and resume.py
    notes.py, render.py        what a person hears before the start; advice.py: what would fit, or be faster
    argv.py, command.py        flags of Megatron's parser, torchrun, the ranks' environment
    cluster/                   several machines

step_time.py, work.py and gpu_kinds.py predict the time of a step; planner/ asks them too.
"""
