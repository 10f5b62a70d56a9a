#!/bin/sh
# Runs the project's Python with this repository importable: $PYTHON, else an active environment, else .venv.
# usage: sh toolkits/python.sh [python's own arguments], from any working directory
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}}
python=${python:-$root/.venv/bin/python}
if ! found=$(command -v "$python") || [ ! -x "$found" ]; then
    . "$root/toolkits/language.sh"
    if led=$(readlink "$python"); then # a virtual environment that somebody else made, over an interpreter in his home
        led=$(readlink -m "$python")
        either "$python leads to $led, which $(id -un) cannot run; PYTHON=... names another" \
            "$python 指向 $led，用户 $(id -un) 不能运行它；请用 PYTHON=... 指定另一个" >&2
    else
        either "no Python at $python; 'make setup' in $root makes one" "$python 没有 Python；在 $root 里运行 make setup 可以建立" >&2
    fi
    exit 1
fi
# A json.py in the working folder, or beside a script, is not Python's: neither is searched for modules. An empty part
# of PYTHONPATH, as in PYTHONPATH=$PYTHONPATH:more, would be the working folder too.
# Pai-Megatron-Patch's scripts put a Megatron-LM tree on PYTHONPATH, which would go before the installed megatron-core.
path=$root
other_megatron() { # FOLDER
    [ -d "$1/megatron/core" ] && [ -z "$(set +f; ls -d "$1"/megatron_core-*.dist-info 2>/dev/null)" ]
}
set -f
saved=${IFS-unset}
IFS=:
for part in ${PYTHONPATH-}; do
    if [ -n "$part" ] && other_megatron "$part"; then
        . "$root/toolkits/language.sh"
        either "PYTHONPATH: $part holds the source of another Megatron, which is left out" \
            "PYTHONPATH：$part 是另一份 Megatron 的源码，不使用它" >&2
    else
        path=$path${part:+:$part}
    fi
done
if [ "$saved" = unset ]; then unset IFS; else IFS=$saved; fi
set +f
PYTHONSAFEPATH=1 PYTHONPATH=$path exec "$python" "$@"
