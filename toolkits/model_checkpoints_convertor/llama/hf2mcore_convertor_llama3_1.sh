#!/bin/sh
# Convert Llama 3.1 between Hugging Face and Megatron-Core, and check it: `sh hf2mcore_convertor_llama3_1.sh --help`.
script=$0
while [ -L "$script" ]; do
    target=$(readlink -- "$script")
    case $target in /*) script=$target ;; *) script=$(dirname -- "$script")/$target ;; esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$script")" && pwd)
exec sh "$here/../../python.sh" "$here/convert.py" "$@"
