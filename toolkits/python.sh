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
# A json.py in the working folder, or beside a script, is not Python's: neither is searched for modules. An empty part
# of PYTHONPATH, as in PYTHONPATH=$PYTHONPATH:more, would be the working folder too.
path=$root
set -f
saved=${IFS-unset}
IFS=:
for part in ${PYTHONPATH-}; do path=$path${part:+:$part}; done
if [ "$saved" = unset ]; then unset IFS; else IFS=$saved; fi
set +f
PYTHONSAFEPATH=1 PYTHONPATH=$path exec "$python" "$@"
