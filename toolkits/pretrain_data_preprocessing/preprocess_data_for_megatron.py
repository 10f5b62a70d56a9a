"""NeMo's door to run_make_pretraining_dataset.sh; --help lists the flags."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.nemo.data import preprocess_data_for_megatron

if __name__ == "__main__":
    sys.exit(preprocess_data_for_megatron(sys.argv[1:]))
