#!/bin/sh
# Tanuki-8B on four GPUs, from random weights. PRECISION=bf16 on an A100, which has no FP8.
# shellcheck source=/dev/null
. "$(dirname -- "$0")/facts.sh"
SIZE=tanuki-8B GPUS=4 TP=1 PP=2 BATCH=1536 PR=fp8 \
    LR=8E-5 MIN_LR=2.0E-5 WARMUP=1000 STEPS=300000 CLIP=0.8 EVAL=10000 \
    DATA=training_corpus/initial LOAD=none SAVE=initial JOB=Llama-3-8B-initial train
