"""`python -m megatron_patch.launch VALUE_1 ... VALUE_25 [--dry-run]`: parse, check, print, become torchrun."""

import sys

if sys.version_info < (3, 12):  # noqa: UP036  # before anything is imported that an older Python cannot read
    sys.exit("megatron_patch needs Python 3.12, this is " + sys.version.split()[0] + ": set PYTHON, or run make setup")

import os
import signal

asks = signal.getsignal(signal.SIGINT)
if asks is signal.default_int_handler:  # Ctrl-C while modules are imported: nothing to tell
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from megatron_patch.common.terminal import guard  # noqa: E402
from megatron_patch.launch.driver import main  # noqa: E402

guard()
signal.signal(signal.SIGINT, asks)
sys.exit(main(sys.argv[1:], os.environ))
