#!/bin/sh
# Two result folders of evaluate.sh side by side: sh compare.sh RESULTS RESULTS
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/../toolkits/python.sh" -m megatron_patch.evaluation.compare "$@"
