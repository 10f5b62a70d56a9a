#!/bin/sh
# Convert Qwen3 between Hugging Face and Megatron-Core, and check it: `sh hf2mcore_convertor_qwen3.sh --help`.
exec sh "$(dirname -- "$(readlink -f -- "$0")")/../llama/hf2mcore_convertor_llama3_1.sh" --family qwen3 "$@"
