#!/bin/sh
# A checkpoint (Hugging Face or Megatron) -> scores on CMMLU and C-Eval, no network: sh evaluate.sh CHECKPOINT [TASKS] [DATA]; --help
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/../toolkits/python.sh" -m megatron_patch.evaluation "$@"
