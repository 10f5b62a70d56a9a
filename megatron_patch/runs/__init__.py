"""One run: its folder, and how it goes. What launcher, ranks, report and watch all have to know. No torch.

folder.py             OUTPUT_BASEPATH: the names of what lies in it, and plan.json
status.py             who writes into it, and how the last run there ended
stored_chunks.py      checksums.json: the SHA-256 of every stored chunk of a checkpoint
recovery.py           NaN, spikes, crashes: the one policy, and events.jsonl
restart.py            a launcher that becomes the driver again (MP_MAX_RESTARTS, rollbacks)
heartbeat.py, watchdog.py    signs of life of the ranks, and the launcher's watch over them
validations.py        the best checkpoint, and whether it stopped early
"""
