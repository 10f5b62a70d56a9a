#!/bin/sh
# Verifies copies of CMMLU and C-Eval and links them to where the unmodified lm_eval looks: sh prepare_data.sh [PLACE...]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/../toolkits/python.sh" -m megatron_patch.evaluation.install_data "$@"
