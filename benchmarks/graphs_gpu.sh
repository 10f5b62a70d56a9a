#!/bin/sh
# Layers as CUDA graphs and one kernel after the other, the driver's own command at TP 2 with its defaults (at LENGTH=8192
# communication is overlapped, at 2048 it is not; sums in one order, so cuDNN's attention): four layers of 8B's width,
# validated, ended after the sixth iteration, the same command again to the twelfth. Are losses, norms and validations of
# both ways the same bits?
#   sh benchmarks/graphs_gpu.sh FOLDER TOKENIZER DATA
# Four GPUs, both ways side by side. 1 where a run failed or bits differ. ON=cpu tries the script without a GPU.
set -u
cd "$(dirname -- "$0")/.." || exit 1
folder=$1 tokenizer=$2 data=$3 on=${ON:-cuda}
size=8B layers=4 length=${LENGTH:-8192} precisions=${PRECISIONS:-fp8 bf16} ways="layers none"
[ "$on" = cpu ] && size=tiny length=128 precisions=fp32 ways="none auto"
mkdir -p "$folder"
sh toolkits/python.sh -m megatron_patch.checkpoint.random_model $size "$folder/hf" --layers $layers --vocab-size 32768 \
    --tokenizer "$tokenizer" || exit 1
train() { # GPUS PRECISION WAY MORE_FLAGS
    CUDA_VISIBLE_DEVICES=$1 MP_DEVICE=$on MP_CUDA_GRAPHS=$3 MP_MEGATRON_ARGS=$4 MP_NPROC=2 MP_EVAL_INTERVAL=2 MP_EVAL_ITERS=2 \
        NVTE_ALLOW_NONDETERMINISTIC_ALGO=0 sh examples/llama3_1/run_mcore_llama3_1.sh dsw auto 1 4 1e-4 1e-5 "$length" "$length" \
        "$2" 2 1 1 true true true false false false 4 "$data" "$data" "$folder/hf" $((12 * 4 * length)) $((2 * 4 * length)) \
        "$folder/$2-$3" >>"$folder/$2-$3.txt" 2>&1
    echo "$2 $3 $4: status $?"
}
for precision in $precisions; do
    for flags in '--exit-interval 6' ''; do
        gpus=0,1
        for way in $ways; do
            train $gpus "$precision" "$way" "$flags" &
            gpus=2,3
        done
        wait
    done
done
sh toolkits/python.sh - "$folder" "$precisions" "$ways" <<'END'
import json, pathlib, sys
folder, precisions, ways = pathlib.Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
differ = False
NAMES = ("iteration", "loss", "grad_norm", "validation_loss")
for precision in precisions:
    found = {}
    for way in ways:
        said = (folder / f"{precision}-{way}.txt").read_text()
        lines = (folder / f"{precision}-{way}" / "metrics.jsonl").read_text().splitlines()
        found[way] = [{name: one[name] for name in NAMES if name in one} for one in map(json.loads, lines)]
        print(precision, way, "recorded graphs:", said.count("CUDA graphs: "), "overlap:", "overlaps with the matmuls" in said)
    first, second = found.values()
    losses = [one["loss"] for one in first if "loss" in one]
    validations = sum("validation_loss" in one for one in first)
    same = "the same bits" if first == second else "OTHER BITS"
    differ = differ or first != second or len(losses) != 12
    print(f"{precision}: {len(losses)} steps, {validations} validations, loss {losses[0]:.4f} to {losses[-1]:.4f}: {same}")
sys.exit(differ)
END
