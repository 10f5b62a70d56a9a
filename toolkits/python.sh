#!/bin/sh
# Runs the project's Python with this repository importable: $PYTHON, else an active environment, else .venv.
# usage: sh toolkits/python.sh [python's own arguments], from any working directory
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}}
python=${python:-$root/.venv/bin/python}
if ! command -v "$python" >/dev/null 2>&1; then
    echo "no Python at $python; 'make setup' in $root makes one" >&2
    exit 1
fi
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" "$@"
