#!/bin/sh
# A super-light model, on one small GPU or on the CPU: does everything fit together?
# shellcheck source=/dev/null
. "$(dirname -- "$0")/facts.sh"
SIZE=tanuki-light GPUS=1 TP=1 PP=1 BATCH=8 PR=bf16 \
    LR=1.0E-5 MIN_LR=1.0E-6 WARMUP=10 STEPS=20 CLIP=1 EVAL=20 SPLIT=98,1,1 \
    DATA=training_corpus LOAD=none SAVE=test train
