"""NeMo's fine-tuning script: `python finetune_llm.py --help`. Named flags, the same plan as the 25 values."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.common.project_python import use_project_python

if __name__ == "__main__":
    use_project_python()
    from megatron_patch.nemo.cli import main

    sys.exit(main(sys.argv[1:], os.environ, "finetune"))
