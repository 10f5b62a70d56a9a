#!/bin/sh
# Conversations -> SFT .bin/.idx: sh run_build_idxmap_sft_dataset.sh INPUT TOKENIZER_NAME SEQ_LEN OUTPUT_PREFIX
# LOAD_DIR [PACKING] [flags]; --help
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/../python.sh" -m megatron_patch.data.sft.build_idxmap "$@"
