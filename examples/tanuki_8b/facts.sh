# shellcheck shell=sh
# What the three scripts share: the list of options of Tanuki's scripts, as values of the driver. Sourced by them, under sh.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
# shellcheck source=toolkits/language.sh
. "$here/../../toolkits/language.sh"

# A variable that you have set goes first; an empty one counts as not set.
export MP_TOKENIZER_PATH="${MP_TOKENIZER_PATH:-$here/tokenizer}" # a SentencePiece model lies there
export MP_ADAM_BETA1="${MP_ADAM_BETA1:-0.9}" MP_ADAM_BETA2="${MP_ADAM_BETA2:-0.95}" MP_ADAM_EPS="${MP_ADAM_EPS:-1e-05}"
export MP_WEIGHT_DECAY="${MP_WEIGHT_DECAY:-0.1}"
export MP_Z_LOSS="${MP_Z_LOSS:-1e-4}" # --use-z-loss names no weight: PaLM's
export MP_MEGATRON_ARGS="--attention-softmax-in-fp32 --log-throughput ${MP_MEGATRON_ARGS:-}"
export MP_LOG_INTERVAL="${MP_LOG_INTERVAL:-1}" MP_EVAL_ITERS="${MP_EVAL_ITERS:-10}"

# bash runs commands that stand in a number which it calculates with, as in a[$(id)]: only digits get that far.
wrong=''
whole() { # NAME VALUE LEAST
    case $2 in
        '' | *[!0-9]* | 0?*) ;;
        *) [ ${#2} -gt 9 ] || [ "$2" -lt "$3" ] || return 0 ;;
    esac
    typed=$(printf %s "$2" | LC_ALL=C tr -c ' -~' '?')
    either "$1: is \"$typed\"; valid: whole number from $3 to 999999999" "$1：是 \"$typed\"；可用：$3 到 999999999 的整数" >&2
    wrong=1
}

# The 25 values, from what a script says of itself; a variable of the same job that you have set goes first.
train() {
    steps=${TRAIN_STEPS:-$STEPS} length=${SEQ_LENGTH:-2048} batch=${GLOBAL_BATCH_SIZE:-$BATCH}
    warmup=${LR_WARMUP_STEPS:-$WARMUP}
    whole TRAIN_STEPS "$steps" 1
    whole SEQ_LENGTH "$length" 1
    whole GLOBAL_BATCH_SIZE "$batch" 1
    whole LR_WARMUP_STEPS "$warmup" 0
    [ -z "$wrong" ] || exit 2
    if [ $((${#steps} + ${#batch} + ${#length})) -gt 18 ] || [ $((${#warmup} + ${#batch} + ${#length})) -gt 18 ]; then
        either "TRAIN_STEPS, LR_WARMUP_STEPS, GLOBAL_BATCH_SIZE, SEQ_LENGTH: too many tokens to be counted" \
            "TRAIN_STEPS、LR_WARMUP_STEPS、GLOBAL_BATCH_SIZE、SEQ_LENGTH：token 太多，无法计数" >&2
        exit 2
    fi
    export MP_CLIP_GRAD="${MP_CLIP_GRAD:-$CLIP}" MP_NPROC="${MP_NPROC:-$GPUS}"
    export MP_LR_DECAY_ITERS="${MP_LR_DECAY_ITERS:-${LR_DECAY_ITERS:-$steps}}"
    export MP_EVAL_INTERVAL="${MP_EVAL_INTERVAL:-$EVAL}"
    export MP_SPLIT="${MP_SPLIT:-${SPLIT:-998,1,1}}" # training, validation, test
    if [ "${PRECISION:-$PR}" = fp8 ]; then # hybrid, the largest of the last 1024 maxima
        export MP_FP8_RECIPE="${MP_FP8_RECIPE:-delayed}"
    fi
    if [ -n "${JOB:-}" ]; then
        export MP_WANDB_ENTITY="${MP_WANDB_ENTITY:-weblab-geniac1}" MP_WANDB_PROJECT="${MP_WANDB_PROJECT:-Llama-3-8B}"
        export MP_WANDB_NAME="${MP_WANDB_NAME:-${JOB_NAME:-$JOB}}"
        [ -n "${WANDB_API_KEY:-}" ] || export WANDB_MODE="${WANDB_MODE:-offline}"
    fi
    exec sh "$here/../llama3_1/run_mcore_llama3_1.sh" dsw "${MODEL_SIZE:-$SIZE}" \
        "${MICRO_BATCH_SIZE:-1}" "$batch" "$LR" "$MIN_LR" "$length" "$length" "${PRECISION:-$PR}" \
        "${TENSOR_PARALLEL_SIZE:-$TP}" "${PIPELINE_PARALLEL_SIZE:-$PP}" "${CONTEXT_PARALLEL_SIZE:-1}" \
        true true true false sel false \
        "${SAVE_INTERVAL:-500}" "${TRAIN_DATA_PATH:-$here/$DATA}" none "$LOAD" \
        $((steps * batch * length)) $((warmup * batch * length)) \
        "${CHECKPOINT_SAVE_DIR:-$here/checkpoints/$SAVE}"
}
