#!/bin/sh
# JSON Lines -> Megatron .bin/.idx: sh run_make_pretraining_dataset.sh INPUT TOKENIZER OUTPUT_PREFIX [flags]; --help
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/../python.sh" -m megatron_patch.data.preprocess "$@"
