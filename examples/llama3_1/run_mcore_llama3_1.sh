#!/bin/sh
# Train Llama 3.1 with 25 values: `sh run_mcore_llama3_1.sh --help`. DRY_RUN=1 shows the plan and starts nothing.
script=$0
while [ -L "$script" ]; do
    target=$(readlink -- "$script")
    case $target in /*) script=$target ;; *) script=$(dirname -- "$script")/$target ;; esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$script")" && pwd)
exec sh "$here/../../toolkits/python.sh" -m megatron_patch.launch "$@"
