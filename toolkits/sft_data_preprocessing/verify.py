"""Whether .bin/.idx files are whole: python verify.py PREFIX... [--tokenizer FOLDER]; --help."""

import sys

# See inspect.py: this folder must not be searched for modules.
folder = __file__.rpartition("/")[0]
sys.path = [folder.rpartition("/toolkits/")[0], *(path for path in sys.path if path != folder)]

from megatron_patch.data.verify import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
