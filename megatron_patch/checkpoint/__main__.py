"""`python -m megatron_patch.checkpoint`: the converter."""

from __future__ import annotations

import sys

from megatron_patch.checkpoint.cli import main
from megatron_patch.common.terminal import guard

guard()
sys.exit(main(sys.argv[1:]))
