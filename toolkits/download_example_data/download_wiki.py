"""The Wikipedia in classical Chinese as JSON Lines: python download_wiki.py [--input COPY]; --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.common.project_python import use_project_python

if __name__ == "__main__":
    use_project_python()
    from megatron_patch.data.download import main

    sys.exit(main("wiki", sys.argv[1:]))
