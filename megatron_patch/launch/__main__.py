"""`python -m megatron_patch.launch VALUE_1 ... VALUE_25 [--dry-run]`: parse, check, print, become torchrun."""

import sys

if sys.version_info < (3, 12):  # noqa: UP036  # before anything is imported that an older Python cannot read
    sys.exit("megatron_patch needs Python 3.12, this is " + sys.version.split()[0] + ": set PYTHON, or run make setup")

import os

from megatron_patch.common.terminal import guard
from megatron_patch.launch.driver import main

guard()
sys.exit(main(sys.argv[1:], os.environ))
