"""For doors that are Python scripts: whichever Python a user types, the project's own does the work.

Kept to what Python 3.8 can read.
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "MEGATRON_PATCH_PROJECT_PYTHON"


def use_project_python() -> None:
    """Start the script again through toolkits/python.sh if this Python is too old or has no torch; once."""
    if os.environ.pop(MARK, None) or (sys.version_info >= (3, 12) and importlib.util.find_spec("torch")):
        return
    os.environ[MARK] = "1"
    sys.stdout.flush()
    os.execv("/bin/sh", ["sh", str(ROOT / "toolkits" / "python.sh"), *sys.argv])
