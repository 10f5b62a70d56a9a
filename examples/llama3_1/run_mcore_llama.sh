#!/bin/sh
# Pai-Megatron-Patch's other name for run_mcore_llama3_1.sh.
exec sh "$(dirname -- "$(readlink -f -- "$0")")/run_mcore_llama3_1.sh" "$@"
