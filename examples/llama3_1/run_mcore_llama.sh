#!/bin/sh
# The seed's other name for run_mcore_llama3_1.sh.
script=$0
while [ -L "$script" ]; do
    target=$(readlink -- "$script")
    case $target in /*) script=$target ;; *) script=$(dirname -- "$script")/$target ;; esac
done
exec sh "$(dirname -- "$script")/run_mcore_llama3_1.sh" "$@"
