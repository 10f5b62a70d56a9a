"""`python -m megatron_patch.watch RUN`, by any Python: see `cli.py`."""

import sys

from megatron_patch.common.project_python import use_project_python

if __name__ == "__main__":
    use_project_python("megatron_patch.watch")
    from megatron_patch.watch.cli import main

    sys.exit(main())
