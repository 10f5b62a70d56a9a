#!/bin/sh
# Train Qwen3 with the same 25 values: `sh run_mcore_qwen3.sh --help`. A bare MODEL_SIZE (8B) is one of this family.
exec sh "$(dirname -- "$(readlink -f -- "$0")")/../llama3_1/run_mcore_llama3_1.sh" --family qwen3 "$@"
