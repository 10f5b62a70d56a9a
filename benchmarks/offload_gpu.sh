#!/bin/sh
# The driver's own command with the optimizer in RAM, on one GPU: six iterations; and the same ended after the third, the
# same command again to the sixth. Are losses and norms the same bits? And how much RAM is taken beside the optimizer's
# 12 bytes a parameter: when it starts, and when it goes on?
#   sh benchmarks/offload_gpu.sh FOLDER TOKENIZER DATA
# SIZE (1B), FRACTION (1.0) of the optimizer, PRECISION (bf16). 1 where a run failed or bits differ.
set -u
cd "$(dirname -- "$0")/.." || exit 1
folder=$1 tokenizer=$2 data=$3 size=${SIZE:-1B} fraction=${FRACTION:-1.0} precision=${PRECISION:-bf16}
mkdir -p "$folder"
sh toolkits/python.sh -m megatron_patch.checkpoint.random_model "$size" "$folder/hf" --vocab-size 32768 \
    --tokenizer "$tokenizer" || exit 1
taken() { # MB of memory that the run's processes have for themselves; what they share counts once
    for pid in $(pgrep -f -- "$folder"); do cat "/proc/$pid/smaps_rollup" 2>/dev/null; done |
        awk '/Pss_Anon/ { sum += $2 } END { print int(sum / 1000) }'
}
train() { # NAME MORE_FLAGS
    (while sleep 0.5; do taken; done) >"$folder/ram.txt" &
    sampler=$!
    MP_DEVICE=cuda MP_NPROC=1 MP_OPTIMIZER_OFFLOAD_FRACTION=$fraction MP_MEGATRON_ARGS=$2 NVTE_ALLOW_NONDETERMINISTIC_ALGO=0 \
        sh examples/llama3_1/run_mcore_llama3_1.sh dsw auto 1 4 1e-4 1e-5 2048 2048 "$precision" 1 1 1 false true true false \
        false static 100 "$data" "$data" "$folder/hf" $((6 * 4 * 2048)) $((2 * 4 * 2048)) "$folder/$1" \
        >>"$folder/$1.txt" 2>&1
    status=$?
    kill $sampler
    echo "$1 $2: status $status, RAM $(sort -n "$folder/ram.txt" | tail -n 1) MB at most"
}
train whole ''
train parts '--exit-interval 3'
train parts ''
sh toolkits/python.sh - "$folder" <<'END'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
found = []
for name in ("whole", "parts"):
    lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    found.append([(one["iteration"], one["loss"], one["grad_norm"]) for one in lines if "loss" in one])
print(*(line for line in (folder / "parts.txt").read_text().splitlines() if "RAM" in line or "parameters" in line), sep="\n")
same = found[0] == found[1] and len(found[0]) == 6
print(found[0], found[1] if not same else "", "the same bits" if same else "OTHER BITS", sep="\n")
sys.exit(not same)
END
