#!/bin/sh
# Convert Qwen2.5 between Hugging Face and Megatron-Core, and check it: `sh hf2mcore_convertor_qwen2_5.sh --help`.
exec sh "$(dirname -- "$(readlink -f -- "$0")")/../llama/hf2mcore_convertor_llama3_1.sh" --family qwen2_5 "$@"
