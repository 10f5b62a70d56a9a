"""Whether .bin/.idx files are whole: python verify.py PREFIX... [--tokenizer FOLDER]; --help."""

import os
import sys

# See inspect.py: this folder must not be searched for modules.
folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib is not imported yet
sys.path = [folder.rpartition("/toolkits/")[0], *(path for path in sys.path if path != folder)]

from megatron_patch.common.project_python import use_project_python  # noqa: E402

if __name__ == "__main__":
    use_project_python()
    from megatron_patch.data.verify import main

    sys.exit(main(sys.argv[1:]))
