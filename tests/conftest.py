"""What holds for all tests.

Order: files that take minutes come first, so that no worker of `make test` is left alone with one at the end.
One thread for each process: two workers on two cores whose threads wait for each other's cores take twice as long.
Signals that whoever started the tests has ignored (`nohup`, a shell's `&`) would be ignored by every process that a
test starts, and tests of signals would wait for ever: a handler that does nothing is not inherited.
Surroundings: variables of a cluster's job, of this project, of a language or a terminal are of whoever starts the
tests, and would change what the driver does and says.
"""

from __future__ import annotations

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
OTHERS = ("MP_", "SLURM_", "PET_", "TORCHELASTIC_", "NCCL_", "WANDB_", "LC_")
"""Beginnings of variables that no test may find."""
KEPT = ("MP_TEST_", "NCCL_NVLS_ENABLE")
"""But these: where a machine's owner has switched NVLink multicast off, it stays off."""
TAKEN_AWAY = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "KUBERNETES_SERVICE_HOST"),
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "LANGUAGE", "HF_TOKEN", "HF_ENDPOINT"),
)
for name in list(os.environ):
    if (name.startswith(OTHERS) and not name.startswith(KEPT)) or name in TAKEN_AWAY:
        del os.environ[name]
os.environ["LANG"] = "C.UTF-8"
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

LONGEST = ("test_readme.py", "test_campaign.py", "test_resume.py", "test_check.py", "test_evaluate.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
