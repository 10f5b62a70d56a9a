#!/bin/sh
# Pai-Megatron-Patch's name for run_mcore_qwen2_5.sh.
exec sh "$(dirname -- "$(readlink -f -- "$0")")/run_mcore_qwen2_5.sh" "$@"
