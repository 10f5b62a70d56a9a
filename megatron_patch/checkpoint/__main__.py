"""`python -m megatron_patch.checkpoint`: the converter."""

from __future__ import annotations

import sys

from megatron_patch.checkpoint.cli import main

sys.exit(main(sys.argv[1:]))
