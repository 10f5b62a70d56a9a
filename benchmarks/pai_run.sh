#!/bin/sh
# Pai-Megatron-Patch's way, as somebody types it: a Hugging Face folder of 8B's architecture (random weights, LAYERS of them) ->
# pretraining, killed and resumed -> finetuning on raw JSON and on idxmap -> Hugging Face, checked layer by layer.
#   sh benchmarks/pai_run.sh FOLDER LAYERS TP PP TOKENIZER DATA CONVERSATIONS
# SIZE=tiny PR=fp32 tries it on a CPU; STEPS leaves some of them out. Where the disk holds one checkpoint of 8B and not
# two, STEPS="make pretrain again weights check layers" needs one.
set -u
cd "$(dirname -- "$0")/.." || exit 1
folder=$1 layers=$2 tp=$3 pp=$4 tokenizer=$5 data=$6 conversations=$7
size=${SIZE:-8B} precision=${PR:-bf16} steps=${STEPS:-make pretrain resume export check raw idxmap}
[ "$tp" -gt 1 ] && sp=true || sp=false
export MP_NPROC=$((tp * pp))
mkdir -p "$folder"
begin=$(date +%s)
say() { printf '== %s s: %s\n' $(($(date +%s) - begin)) "$*"; }
asked() { case " $steps " in *" $1 "*) return 0 ;; *) return 1 ;; esac }
driver() { # SFT SAVE_INTERVAL DATA CHECKPOINT OUTPUT: everything else as in its documented command
    sh examples/llama3_1/run_mcore_llama3_1.sh dsw auto 1 8 1e-5 1e-6 128 128 "$precision" "$tp" "$pp" 1 "$sp" true true \
        "$1" false false "$2" "$3" "$3" "$4" 10000 100 "$5"
}
lines() { cat "$1/metrics.jsonl" 2>/dev/null | grep -c '"loss"'; }
losses() {
    sed -n 's/.*"iteration": \([0-9]*\), "loss": \([0-9.]*\),.*"step_ms": \([0-9]*\).*/\1 \2 \3ms/p' "$1/metrics.jsonl" | tr '\n' ';'
}
tree() { # PID: it and all that it started
    for child in $(pgrep -P "$1"); do tree "$child"; done
    echo "$1"
}
start_and_kill() { # NAME SECONDS CONDITION, then driver's arguments: SIGKILL when CONDITION is true
    name=$1 deadline=$(($(date +%s) + $2)) condition=$3
    shift 3
    (driver "$@" "$folder/$name" & echo $! >"$folder/pid"; wait) >"$folder/$name.txt" 2>&1 &
    while ! $condition && [ "$(date +%s)" -lt $deadline ] && kill -0 $! 2>/dev/null; do
        [ "$(lines "$folder/$name")" -gt 0 ] && [ ! -e "$folder/$name.first" ] && say "$name: first step done" && touch "$folder/$name.first"
        sleep 0.1
    done
    # shellcheck disable=SC2046  # one word for each process; if the launcher alone dies, the ranks save
    kill -KILL $(tree "$(cat "$folder/pid")") 2>/dev/null
    sleep 2
    say "$name, killed: $(losses "$folder/$name")"
}
saved() { [ -s "$folder/$name/checkpoints/latest_checkpointed_iteration.txt" ]; }
twenty_steps() { [ "$(lines "$folder/$name")" -ge 20 ]; }
nine_steps() { [ "$(lines "$folder/$name")" -ge 9 ]; }
three_steps() { [ "$(lines "$folder/$name")" -ge 3 ]; }

if asked make; then
    say "a Hugging Face folder of $size architecture, $layers layers"
    sh toolkits/python.sh -m megatron_patch.checkpoint.random_model "$size" "$folder/hf" --layers "$layers" --tokenizer "$tokenizer" || exit 1
fi
if asked start; then
    say "the first steps from it"
    start_and_kill start 120 three_steps false 100000 "$data" "$folder/hf"
fi
if asked pretrain; then
    say "pretraining from it; killed after the first checkpoint"
    start_and_kill pretrain 300 saved false 5 "$data" "$folder/hf"
fi
if asked resume; then
    say "the same command again, and a Hugging Face folder at its end"
    MP_EXPORT_HF=1 driver false 5 "$data" "$folder/hf" "$folder/pretrain" >"$folder/resume.txt" 2>&1
    say "status $?; $(grep -i -E "resum|goes on" "$folder/resume.txt" | head -1)"
    say "resumed: $(losses "$folder/pretrain")"
    tail -4 "$folder/resume.txt"
fi
if asked again; then
    say "the same command again, killed after its last iteration"
    cp "$folder/pretrain/metrics.jsonl" "$folder/killed.jsonl"
    grep '"iteration": [1-5],' "$folder/killed.jsonl" >"$folder/pretrain/metrics.jsonl" # as the run does it
    start_and_kill pretrain 200 nine_steps false 5 "$data" "$folder/hf"
    rm -rf "$folder/pretrain/checkpoints/".incomplete_*
    grep -i -E "resum|goes on|first step after" "$folder/pretrain.txt"
    for file in killed.jsonl pretrain/metrics.jsonl; do
        grep '"iteration": [6-9],' "$folder/$file" | cut -d, -f1-4 >"$folder/$file.steps"
    done
    same=$(grep -c -x -F -f "$folder/pretrain/metrics.jsonl.steps" "$folder/killed.jsonl.steps")
    say "iterations after 5 before it was killed: $(wc -l <"$folder/killed.jsonl.steps"), with the same bits afterwards: $same"
fi
if asked weights; then
    say "a Hugging Face folder of its checkpoint"
    sh toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh --source "$folder/pretrain" --output-path "$folder/pretrain/hf" --hf-path "$folder/hf" >"$folder/weights.txt" 2>&1
    say "status $?; $(tail -1 "$folder/weights.txt")"
fi
if asked check; then
    for kind in bf16 fp32; do
        sh toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh auto "$folder/pretrain" "$folder/pretrain/hf" 1 1 true true true $kind "$folder/hf" >"$folder/check-$kind.txt" 2>&1
        say "checkpoint against its Hugging Face folder, $kind: status $?; $(tail -2 "$folder/check-$kind.txt" | tr '\n' '|')"
    done
fi
if asked layers; then
    for kind in bf16 fp32; do
        PYTHONPATH=${PYTHONPATH:-}:$PWD NVIDIA_TF32_OVERRIDE=0 sh toolkits/python.sh -m tests.gpu.layers_worker "$folder/pretrain/hf" $kind >"$folder/layers-$kind.txt" 2>&1
        say "trained layers on the GPU against Hugging Face's, $kind: status $?; [ours, theirs] $(tail -1 "$folder/layers-$kind.txt" | cut -c1-1500)"
    done
fi
for form in raw idxmap; do
    asked $form || continue
    from=$conversations
    if [ $form = idxmap ]; then
        from=$folder/sft_text_document
        sh toolkits/sft_data_preprocessing/run_build_idxmap_sft_dataset.sh "$conversations" LLama3Tokenizer 128 "$folder/sft" "$tokenizer" false >"$folder/sft.txt" 2>&1
    fi
    say "finetuning on $form, its first 20 steps"
    MP_DATASET_TYPE=$form start_and_kill "sft-$form" 120 twenty_steps true 100000 "$from" "${SFT_FROM:-$folder/pretrain}"
done
say end
