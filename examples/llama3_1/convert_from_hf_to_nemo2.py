"""NeMo's converter, Hugging Face to Megatron: `python convert_from_hf_to_nemo2.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.common.project_python import use_project_python

if __name__ == "__main__":
    use_project_python()
    from megatron_patch.nemo.convert import main

    sys.exit(main(sys.argv[1:], "hf2mcore", "convert_from_hf_to_nemo2.py"))
