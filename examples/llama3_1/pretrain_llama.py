"""Run by torchrun in every rank; `run_mcore_llama3_1.sh` builds its flags."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.trainer.entry import main

if __name__ == "__main__":
    main()
