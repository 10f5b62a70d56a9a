"""SFT data as the model sees it, and its statistics: python inspect.py PATH... --tokenizer FOLDER; --help."""

import os
import sys

# This folder goes from the path before anything else is imported: `inspect` is also a module of Python's own.
folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib is not imported yet
sys.path = [folder.rpartition("/toolkits/")[0], *(path for path in sys.path if path != folder)]

from megatron_patch.common.project_python import use_project_python  # noqa: E402

if __name__ == "__main__":
    use_project_python()
    from megatron_patch.data.sft.inspection import main

    sys.exit(main(sys.argv[1:]))
