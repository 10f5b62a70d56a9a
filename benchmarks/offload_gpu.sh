#!/bin/sh
# The driver's own command with the optimizer in RAM, on one GPU: six iterations; and the same ended after the third, the
# same command again to the sixth. Are losses and norms the same bits? And how much RAM do they take: when it starts, and
# when it goes on?
#   sh benchmarks/offload_gpu.sh NEW_FOLDER TOKENIZER DATA
# SIZE (1B), FRACTION (1.0) of the optimizer, PRECISION (bf16). 1 where a run failed, did not go on, or bits differ.
set -u
cd "$(dirname -- "$0")/.." || exit 1
folder=$1 tokenizer=$2 data=$3 size=${SIZE:-1B} fraction=${FRACTION:-1.0} precision=${PRECISION:-bf16}
mkdir "$folder" || exit 1
failed=0
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
    [ $status = 0 ] || failed=1
    echo "$1 $2: status $status, RAM $(sort -n "$folder/ram.txt" | tail -n 1) MB at most"
}
train whole ''
train parts '--exit-interval 3'
cp "$folder/parts/metrics.jsonl" "$folder/first.jsonl"
train parts ''
sh toolkits/python.sh - "$folder" <<'END' || failed=1
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
whole, first, parts = (
    [(one["iteration"], one["loss"], one["grad_norm"]) for one in map(json.loads, file.read_text().splitlines()) if "loss" in one]
    for file in (folder / "whole" / "metrics.jsonl", folder / "first.jsonl", folder / "parts" / "metrics.jsonl")
)
print(f"iterations {len(whole)}, {len(first)} and {len(parts)};", "the same bits" if whole == parts else f"OTHER BITS: {whole} {parts}")
wrong = {
    "not six iterations": len(whole) != 6,
    "not ended after the third": len(first) != 3,
    "nothing was offloaded": not json.loads((folder / "parts" / "plan.json").read_text())["offload_fraction"],
}
print(*(sentence for sentence, true in wrong.items() if true), sep="\n")
sys.exit(whole != parts or any(wrong.values()))
END
exit $failed
