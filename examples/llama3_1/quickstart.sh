#!/bin/sh
# From nothing to a Llama 3.1 that has learned real text and answers. `make quickstart` installs what is missing and runs this.
#
# A few minutes on two cores; nothing is downloaded. Everything lands in runs/quickstart (QUICKSTART_DIR names another
# folder). What is there already is not made again: `make clean-runs` starts over.
set -eu

cd "$(dirname -- "$0")/../.."
. toolkits/language.sh
dir=${QUICKSTART_DIR:-runs/quickstart}
iterations=${QUICKSTART_ITERS:-600} # of pretraining; finetuning has a quarter of that
case $iterations in '' | *[!0-9]* | 0* | ??????????*) # bash runs commands that stand in a number it calculates with
    either 'QUICKSTART_ITERS: valid: whole number from 1 to 999999999' 'QUICKSTART_ITERS：可用：1 到 999999999 的整数' >&2
    exit 2
    ;;
esac

say() { printf '\n--- %s\n' "$(either "$1" "$2")"; }
show() { # print a command, note it for the report, run it: copy it to do the same with your own files
    printf '+ %s\n' "$*"
    mkdir -p "$dir"
    printf '%s\n' "$*" >>"$dir/commands.txt"
    "$@"
}
make_once() { # RESULT COMMAND...
    if [ -e "$1" ]; then either "$1 is there" "$1 已经存在"; else
        shift
        show "$@"
    fi
}
python='sh toolkits/python.sh'
build_dataset='sh toolkits/pretrain_data_preprocessing/run_make_pretraining_dataset.sh'
convert='sh toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh'
knobs="MP_NPROC=1 MP_EVAL_ITERS=$((iterations < 100 ? 1 : 10)) MP_LOG_INTERVAL=10"
# shellcheck disable=SC2086  # $python, $build_dataset, $convert and $knobs are several words each
{
    # Text that is on every machine: Python's own library, 560 files, 9 MB. One file in twenty is held out.
    say "1/11 text" "1/11 文本"
    make_once "$dir/text/valid.jsonl" $python -m megatron_patch.data.stdlib_text "$dir/text"

    # A byte-level BPE like Llama 3.1's, its special tokens and chat template too, of 2,048 tokens instead of 128,256.
    say "2/11 tokenizer" "2/11 分词器"
    make_once "$dir/tokenizer" $python -m megatron_patch.data.train_tokenizer "$dir/text/train.jsonl" "$dir/tokenizer" \
        --vocab-size 2048

    # Megatron reads token ids from .bin, through an .idx.
    say "3/11 datasets" "3/11 数据集"
    for split in train valid; do
        make_once "$dir/data/${split}_text_document.idx" \
            $build_dataset "$dir/text/$split.jsonl" "$dir/tokenizer" "$dir/data/$split" --overwrite
    done

    # `tiny` is a Llama 3.1 of 4 million parameters. Its Hugging Face folder becomes a Megatron checkpoint, and both
    # models are compared layer by layer: the same command converts 8B.
    say "4/11 a new model, converted to Megatron" "4/11 新模型，转换为 Megatron 格式"
    make_once "$dir/start-hf" \
        $python -m megatron_patch.checkpoint.random_model tiny "$dir/start-hf" --tokenizer "$dir/tokenizer" --precision fp32
    make_once "$dir/start-mcore" $convert tiny "$dir/start-hf" "$dir/start-mcore" 1 1 false true false fp32

    # The driver and its 25 values. Killed at any time, the same command goes on from its newest checkpoint.
    say "5/11 pretraining" "5/11 预训练"
    batch=4 seq=256
    if nvidia-smi -L >/dev/null 2>&1; then precision=bf16; else precision=fp32; fi
    show env $knobs MP_EVAL_INTERVAL=$((iterations / 5)) sh examples/llama3_1/run_mcore_llama3_1.sh \
        dsw tiny $batch $batch 2e-3 2e-4 $seq $seq $precision \
        1 1 1 false false true false false false $((iterations / 2)) \
        "$dir/data/train_text_document" "$dir/data/valid_text_document" "$dir/start-mcore" \
        $((iterations * batch * seq)) $((iterations * batch * seq / 25)) "$dir/pretrain"

    # The same driver with SFT=true, on JSON as it is: a signature asks, its docstring is the answer, and several
    # conversations share a sequence. Positions 23 and 24 count iterations now.
    say "6/11 finetuning" "6/11 微调"
    make_once "$dir/conversations/valid.jsonl" $python -m megatron_patch.data.stdlib_docstrings "$dir/conversations"
    tuning=$((iterations / 4 > 5 ? iterations / 4 : 5))
    show env $knobs MP_EVAL_INTERVAL=$((tuning / 5)) MP_DATASET_TYPE=raw MP_SFT_PACKING=true \
        sh examples/llama3_1/run_mcore_llama3_1.sh \
        dsw tiny $batch $batch 1e-3 1e-4 $seq $seq $precision \
        1 1 1 false false true true false false $tuning \
        "$dir/conversations/train.jsonl" "$dir/conversations/valid.jsonl" "$dir/pretrain" \
        $tuning $((tuning / 25)) "$dir/finetune"

    say "7/11 back to Hugging Face" "7/11 转回 Hugging Face"
    show $convert tiny "$dir/finetune" "$dir/trained-hf" 1 1 true true false $precision "$dir/start-hf" --overwrite

    # lm_eval on all 119 subjects of CMMLU and C-Eval, the new model against the trained one. The questions are invented,
    # as the real ones are not ours to ship: both can only guess.
    say "8/11 evaluation" "8/11 评测"
    make_once "$dir/questions" sh LM-Evaluation-Harness/make_synthetic_data.sh "$dir/questions" --questions 1
    show sh LM-Evaluation-Harness/evaluate.sh "$dir/trained-hf" cmmlu,ceval-valid "$dir/questions" \
        --against "$dir/start-hf" --output "$dir/evaluation"

    # The new model and the trained one, asked the same. Ask on your own: sh toolkits/chat.sh runs/quickstart/trained-hf
    say "9/11 before and after" "9/11 训练前后对比"
    echo 'def open_file(name, mode="r", encoding=None)' >"$dir/asked.txt"
    show $python -m megatron_patch.generate "$dir/trained-hf" --before "$dir/start-hf" --chat --prompts "$dir/asked.txt" \
        --temperature 0.7 --top-k 40 --max-new-tokens 60

    say "10/11 summary" "10/11 小结"
    $python examples/llama3_1/quickstart_summary.py "$dir"

    # All of it on one page. It can be made at any time, and of several runs: RUN RUN ...
    say "11/11 report" "11/11 报告"
    show $python -m megatron_patch.report "$dir"
}
