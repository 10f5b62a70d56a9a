"""NeMo's name for run_make_pretraining_dataset.sh; --help lists the flags."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.common.project_python import use_project_python

if __name__ == "__main__":
    use_project_python()
    from megatron_patch.nemo.data import preprocess_data_for_megatron

    sys.exit(preprocess_data_for_megatron(sys.argv[1:]))
