#!/bin/sh
# Tanuki-8B, continued: the weights of the first training, other data, a schedule of its own.
# shellcheck source=/dev/null
. "$(dirname -- "$0")/facts.sh"
SIZE=tanuki-8B GPUS=4 TP=1 PP=2 BATCH=1536 PR=fp8 \
    LR=5E-5 MIN_LR=0.5E-5 WARMUP=1000 STEPS=7200 CLIP=0.8 EVAL=10000 \
    DATA=training_corpus/continue LOAD=${LOAD:-$here/checkpoints/initial} SAVE=continue JOB=Llama-3-8B-continue train
