"""The converter as a Python script: `python convert.py --source DIR --output-path DIR [--check] ...`; `--help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from megatron_patch.common.project_python import use_project_python

if __name__ == "__main__":
    use_project_python()
    from megatron_patch.checkpoint.cli import main

    sys.exit(main(sys.argv[1:]))
