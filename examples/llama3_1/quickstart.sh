#!/bin/sh
# From nothing to a Llama 3.1 that has learned real text. `make quickstart` installs what is missing and runs this.
#
# About three minutes on two cores; nothing is downloaded. Everything lands in runs/quickstart (QUICKSTART_DIR names
# another folder). A step whose result is there is not done again: `make clean-runs` starts over.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
cd "$root"
dir=${QUICKSTART_DIR:-runs/quickstart}
iterations=${QUICKSTART_ITERS:-500}

python() { sh toolkits/python.sh "$@"; }
say() { printf '\n--- %s\n' "$*"; }
unless() { # RESULT COMMAND...: run the command unless its result is there
    if [ -e "$1" ]; then echo "$1 is there"; else
        shift
        "$@"
    fi
}

# Text that is on every machine: Python's own library, 560 files, 9 MB. One file in twenty is kept for validation.
say "1/5 text"
unless "$dir/text/valid.jsonl" python -m megatron_patch.data.stdlib_text "$dir/text"

# A byte-level BPE like Llama 3.1's, with its special tokens and chat template, but 4,096 tokens instead of 128,256.
say "2/5 tokenizer"
unless "$dir/tokenizer" python -m megatron_patch.data.train_tokenizer "$dir/text/train.jsonl" "$dir/tokenizer"

# Megatron reads token ids from .bin, through an .idx.
say "3/5 datasets"
for split in train valid; do
    unless "$dir/data/${split}_text_document.idx" sh toolkits/pretrain_data_preprocessing/run_make_pretraining_dataset.sh \
        "$dir/text/$split.jsonl" "$dir/tokenizer" "$dir/data/$split" --overwrite
done

# The driver and its 25 values. `tiny` is a Llama 3.1 of 5 million parameters; 8B takes the same command.
say "4/5 pretraining: $iterations iterations"
batch=4 seq=256
if nvidia-smi -L >/dev/null 2>&1; then precision=bf16; else precision=fp32; fi
set -- \
    dsw \
    tiny \
    $batch \
    $batch \
    4e-3 \
    4e-4 \
    $seq \
    $seq \
    $precision \
    1 \
    1 \
    1 \
    false \
    false \
    true \
    false \
    false \
    false \
    "$iterations" \
    "$dir/data/train_text_document" \
    "$dir/data/valid_text_document" \
    none \
    $((iterations * batch * seq)) \
    $((iterations * batch * seq / 25)) \
    "$dir/pretrain"
echo "sh examples/llama3_1/run_mcore_llama3_1.sh $*"
MP_TOKENIZER_PATH=$dir/tokenizer MP_NPROC=1 MP_EVAL_INTERVAL=$((iterations / 5)) MP_EVAL_ITERS=10 MP_LOG_INTERVAL=10 \
    sh examples/llama3_1/run_mcore_llama3_1.sh "$@"

say "5/5 summary"
python examples/llama3_1/quickstart_summary.py "$dir"
