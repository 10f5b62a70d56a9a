#!/bin/sh
# Faults at the width of 8B, four layers of it and VOCAB ids (1.1 G parameters, a checkpoint of about 16 GB, three of them at
# a time): SIGTERM while a save is under way; a flipped bit in the newest checkpoint, and the fallback; what checksums cost.
#   sh benchmarks/faults_gpu.sh FOLDER TOKENIZER DATA
# SIZE=tiny LAYERS=2 ON=cpu PR=fp32 VOCAB=512 GB=1 tries it without a GPU. STEPS leaves some steps out.
set -u
cd "$(dirname -- "$0")/.." || exit 1
folder=$1 tokenizer=$2 data=$3
size=${SIZE:-8B} layers=${LAYERS:-4} device=${ON:-cuda} precision=${PR:-bf16} seq=${SEQ:-1024}
steps=${STEPS:-make whole term flip cost}
export NVTE_ALLOW_NONDETERMINISTIC_ALGO=0 # else attention's gradient differs from run to run
mkdir -p "$folder"
begin=$(date +%s)
say() { printf '== %s s: %s\n' $(($(date +%s) - begin)) "$*"; }
asked() { case " $steps " in *" $1 "*) return 0 ;; *) return 1 ;; esac }
driver() { # ITERATIONS OUTPUT: a save every fourth, asynchronous, two kept
    MP_DEVICE=$device MP_NPROC=1 MP_BACKGROUND_SAVE=true MP_KEEP_CHECKPOINTS=2 MP_LR_DECAY_ITERS=12 \
        sh examples/llama3_1/run_mcore_llama3_1.sh dsw auto 1 8 1e-5 1e-6 "$seq" "$seq" "$precision" 1 1 1 false true true \
        false false false 4 "$data" none "$folder/hf" $(($1 * 8 * seq)) $((8 * seq)) "$2"
}
losses() { grep -c '"loss"' "$1/metrics.jsonl" 2>/dev/null || echo 0; }
finished() { for mark in "$1"/checkpoints/iter_*/metadata.json; do [ -e "$mark" ] && basename "$(dirname "$mark")"; done | tr '\n' ' '; }
bits() { sed -n 's/.*"iteration": \([0-9]*\), "loss": \([0-9.e-]*\).*"grad_norm": \([0-9.e-]*\).*/\1 \2 \3/p' "$1/metrics.jsonl"; }
compare() { # NAME
    bits "$folder/whole" >"$folder/whole.bits"
    bits "$folder/$1" >"$folder/$1.bits"
    if cmp -s "$folder/whole.bits" "$folder/$1.bits"; then say "$1: losses and norms are the bits of the undisturbed run"; else
        say "$1: DIFFERENT from the undisturbed run"
        diff "$folder/whole.bits" "$folder/$1.bits" | head -4
    fi
}

if asked make; then
    sh toolkits/python.sh -m megatron_patch.checkpoint.random_model "$size" "$folder/hf" --layers "$layers" \
        --vocab-size "${VOCAB:-32768}" --tokenizer "$tokenizer" >"$folder/hf.txt" 2>&1 || exit 1
    say "$(tail -1 "$folder/hf.txt")"
fi
if asked whole; then
    driver 12 "$folder/whole" >"$folder/whole.txt" 2>&1
    say "undisturbed: status $?, $(losses "$folder/whole") steps, complete: $(finished "$folder/whole")"
    grep -h "asynchronous checkpoint" "$folder"/whole/logs/rank_0.log
    du -sb "$folder"/whole/checkpoints/iter_* | tail -1
    # the save's stall: the steps after 4 and 8, next to the others
    sed -n 's/.*"iteration": \([0-9]*\),.*"step_ms": \([0-9]*\).*/\1:\2ms/p' "$folder/whole/metrics.jsonl" | tr '\n' ' '
    echo
fi
if asked term; then
    rm -rf "$folder"/whole/checkpoints # the room is needed
    driver 12 "$folder/term" >"$folder/term.txt" 2>&1 &
    started=$!
    while ! [ -e "$folder/term/checkpoints/.incomplete_iter_0000004" ] && kill -0 $started 2>/dev/null; do sleep 0.02; done
    sent=$(date +%s%N)
    launcher=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$folder/term/logs/launcher.lock")
    kill -TERM "$launcher"
    wait $started
    say "SIGTERM while iteration 4 was written: status $? (143), ended after $((($(date +%s%N) - sent) / 1000000)) ms, complete: $(finished "$folder/term")"
    grep -h "stopped by\|finish their step" "$folder/term.txt"
    sh toolkits/python.sh -m megatron_patch.checkpoint verify "$folder/term" | tail -3
    driver 12 "$folder/term" >>"$folder/term.txt" 2>&1
    say "the same command: status $?; $(grep -h "resuming from" "$folder/term.txt" | tail -1)"
    compare term
fi
if asked flip; then
    rm -rf "$folder/flip"
    mv "$folder/term" "$folder/flip"
    sh toolkits/python.sh - "$folder/flip/checkpoints/iter_0000012" <<'END'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
files = json.loads((folder / "checksums.json").read_text())["files"]
name, (offset, length, _, item) = max(((n, c) for n, cs in files.items() for c in cs), key=lambda pair: pair[1][1])
with (folder / name).open("r+b") as stream:
    stream.seek(offset + length // 2)
    byte = stream.read(1)[0]
    stream.seek(offset + length // 2)
    stream.write(bytes([byte ^ 4]))
print(f"one bit flipped in {item}, {length / 1e9:.2f} GB, in {name}")
END
    # one iteration more than it has done, so that it loads the newest
    before=$(date +%s)
    driver 13 "$folder/flip" >"$folder/flip.txt" 2>&1
    say "flipped bit: status $?, $(($(date +%s) - before)) s; complete: $(finished "$folder/flip")"
    grep -h "damaged\|set aside\|going on" "$folder/flip.txt"
    ls -d "$folder"/flip/checkpoints/*iter_*
    bits "$folder/flip" | head -12 >"$folder/flip.bits"
    if cmp -s "$folder/whole.bits" "$folder/flip.bits"; then say "flip: iterations 1 to 12 are the bits of the undisturbed run"; else say "flip: DIFFERENT"; fi
fi
if asked cost; then
    sh toolkits/python.sh benchmarks/checksums.py "$folder" "${GB:-8}"
fi
say end
