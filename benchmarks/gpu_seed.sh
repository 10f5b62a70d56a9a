#!/bin/sh
# The seed's way, as somebody types it: a Hugging Face folder of 8B's geometry (random weights, LAYERS of them) ->
# pretraining, killed and resumed -> finetuning on raw JSON and on idxmap -> Hugging Face, checked layer by layer.
#   sh benchmarks/gpu_seed.sh FOLDER LAYERS TP PP TOKENIZER DATA CONVERSATIONS
# SIZE=tiny PR=fp32 tries it on a CPU; STEPS leaves some of them out.
set -u
cd "$(dirname -- "$0")/.." || exit 1
folder=$1 layers=$2 tp=$3 pp=$4 tokenizer=$5 data=$6 conversations=$7
size=${SIZE:-8B} precision=${PR:-bf16} steps=${STEPS:-make pretrain resume sft export}
[ "$tp" -gt 1 ] && sp=true || sp=false
mkdir -p "$folder"
begin=$(date +%s)
say() { printf '== %s s: %s\n' $(($(date +%s) - begin)) "$*"; }
asked() { case " $steps " in *" $1 "*) return 0 ;; *) return 1 ;; esac }
driver() { # SFT SAVE_INTERVAL DATA CHECKPOINT LENGTH WARMUP OUTPUT
    sh examples/llama3_1/run_mcore_llama3_1.sh dsw auto 1 8 1e-5 1e-6 128 128 "$precision" "$tp" "$pp" 1 "$sp" true true \
        "$1" false false "$2" "$3" none "$4" "$5" "$6" "$7"
}
losses() { sed -n 's/.*"iteration": \([0-9]*\), "loss": \([0-9.]*\),.*"step_ms": \([0-9]*\).*/\1 \2 \3ms/p' "$1/metrics.jsonl" | tr '\n' ';'; }

if asked make; then
    say "a Hugging Face folder of $size geometry, $layers layers"
    sh toolkits/python.sh -m megatron_patch.checkpoint.random_model "$size" "$folder/hf" --layers "$layers" --tokenizer "$tokenizer" || exit 1
fi
start_and_kill() { # SAVE_INTERVAL NAME COMMAND...: kill the run when COMMAND is true
    (driver false "$1" "$data" "$folder/hf" 10000 100 "$folder/$2" & echo $! >"$folder/pid"; wait) >"$folder/$2.txt" 2>&1 &
    name=$2 n=0
    shift 2
    while ! "$@" && [ $n -lt 1500 ]; do
        [ -s "$folder/$name/metrics.jsonl" ] && [ ! -e "$folder/$name.first" ] && say "first step done" && touch "$folder/$name.first"
        sleep 0.1
        n=$((n + 1))
    done
    pkill -KILL -P "$(cat "$folder/pid")"
    kill -KILL "$(cat "$folder/pid")"
    sleep 2
    say "killed: $(losses "$folder/$name")"
}
three_steps() { [ "$(cat "$folder/start/metrics.jsonl" 2>/dev/null | wc -l)" -ge 3 ]; }

if asked start; then
    say "the first steps from it"
    start_and_kill 100000 start three_steps
fi
if asked pretrain; then
    say "pretraining from it; killed after the first checkpoint"
    start_and_kill 4 pretrain [ -s "$folder/pretrain/checkpoints/latest_checkpointed_iteration.txt" ]
fi
if asked resume; then
    say "the same command again"
    driver false 4 "$data" "$folder/hf" 10000 100 "$folder/pretrain" >"$folder/resume.txt" 2>&1 || tail -20 "$folder/resume.txt"
    grep -i -E "resum|goes on" "$folder/resume.txt" | head -3
    say "resumed: $(losses "$folder/pretrain")"
fi
if asked sft; then
    say "an idxmap of conversations"
    sh toolkits/sft_data_preprocessing/run_build_idxmap_sft_dataset.sh "$conversations" LLama3Tokenizer 128 "$folder/sft" "$tokenizer" false >"$folder/sft.txt" 2>&1
    for form in raw idxmap; do
        [ $form = raw ] && from=$conversations || from=$folder/sft_text_document
        say "finetuning on $form"
        MP_DATASET_TYPE=$form driver true 100000 "$from" "$folder/pretrain" 6 1 "$folder/sft-$form" >"$folder/sft-$form.txt" 2>&1 || tail -20 "$folder/sft-$form.txt"
        say "$form: $(losses "$folder/sft-$form")"
    done
fi
if asked export; then
    say "back to Hugging Face, checked"
    sh toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh auto "$folder/pretrain" "$folder/trained" 1 1 true true false "$precision" "$folder/hf" --overwrite >"$folder/export.txt" 2>&1
    say "status $?; $(tail -4 "$folder/export.txt" | tr '\n' '|')"
fi
