#!/bin/sh
# Invented questions in both official layouts, for tests: sh make_synthetic_data.sh FOLDER [--questions N]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/../toolkits/python.sh" -m megatron_patch.evaluation.synthetic "$@"
