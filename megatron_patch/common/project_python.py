"""For entry points that are Python: whichever Python a user types, the project's own does the work.

Kept to what Python 3.8 can read, as are the scripts that call it.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[2]
MARK = "MEGATRON_PATCH_PROJECT_PYTHON"


def use_project_python(module: Optional[str] = None) -> None:  # noqa: UP045  # Python 3.8 has no `str | None`
    """Start again through toolkits/python.sh if this Python is too old or has no torch; once.

    Args:
        module: name of the module where it was started by `python -m`, None where it is a script.
    """
    if os.environ.pop(MARK, None) or (sys.version_info >= (3, 12) and importlib.util.find_spec("torch")):
        _guard()
        return
    starter = ROOT / "toolkits" / "python.sh"
    if not starter.is_file():  # installed as a package: pip has seen to the rest
        _guard()
        return
    own = ROOT / ".venv" / "bin" / "python"
    if os.environ.get("VIRTUAL_ENV") == sys.prefix and own.exists():  # the active environment has proved unfit
        os.environ.setdefault("PYTHON", str(own))
    os.environ[MARK] = "1"
    sys.stdout.flush()
    what = [sys.argv[0]] if module is None else ["-m", module]
    os.execv("/bin/sh", ["sh", str(starter), *what, *sys.argv[1:]])


def _guard() -> None:
    from megatron_patch.common.terminal import guard  # a newer Python reads it

    guard()
