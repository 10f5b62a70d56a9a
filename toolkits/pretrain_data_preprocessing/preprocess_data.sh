#!/bin/sh
# NeMo's name for run_make_pretraining_dataset.sh: preprocess_data.sh --hf-tokenizer FOLDER --data-prefix NAME
# --input-dir FOLDER --output-dir FOLDER; --help
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/../python.sh" -m megatron_patch.nemo.data preprocess_data "$@"
