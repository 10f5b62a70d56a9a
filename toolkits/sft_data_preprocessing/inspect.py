"""SFT data as the model sees it, and its statistics: python inspect.py PATH... --tokenizer FOLDER; --help."""

import sys

# This folder goes from the path before anything else is imported: `inspect` is also a module of Python's own.
folder = __file__.rpartition("/")[0]
sys.path = [folder.rpartition("/toolkits/")[0], *(path for path in sys.path if path != folder)]

from megatron_patch.data.sft.inspection import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
