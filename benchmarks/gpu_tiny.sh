#!/bin/sh
# Size `tiny` by its name, 20 iterations through the driver's 25 values from one Hugging Face folder of random weights:
# fp32 on the processor; fp32, bf16, and bf16 with z-loss on the GPU. Says how far each is from the processor's losses.
#   sh benchmarks/gpu_tiny.sh FOLDER TOKENIZER DATA
# ON=cpu tries it without a GPU.
set -u
cd "$(dirname -- "$0")/.." || exit 1
folder=$1 tokenizer=$2 data=$3 gpu=${ON:-cuda}
mkdir -p "$folder"
sh toolkits/python.sh -m megatron_patch.checkpoint.random_model tiny "$folder/hf" --tokenizer "$tokenizer" --precision fp32 >"$folder/hf.txt" 2>&1 || exit 1
train() { # NAME DEVICE PRECISION Z_LOSS
    MP_DEVICE=$2 MP_Z_LOSS=$4 MP_NPROC=1 sh examples/llama3_1/run_mcore_llama3_1.sh dsw tiny 4 8 1e-3 1e-4 128 128 "$3" \
        1 1 1 false true true false false false 100000 "$data" none "$folder/hf" 20480 2048 "$folder/$1" >"$folder/$1.txt" 2>&1
    echo "$1: status $?" >>"$folder/status.txt"
}
train cpu-fp32 cpu fp32 0 &
train gpu-fp32 "$gpu" fp32 0 &
train gpu-bf16 "$gpu" bf16 0 &
train gpu-bf16-z "$gpu" bf16 1e-4 &
wait
cat "$folder/status.txt"
sh toolkits/python.sh - "$folder" <<'END'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
def losses(name):
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]
exact = losses("cpu-fp32")
for name in ("cpu-fp32", "gpu-fp32", "gpu-bf16", "gpu-bf16-z"):
    found = losses(name)
    gap = max(abs(a - b) for a, b in zip(found, exact, strict=True))
    print(f"{name:12} {len(found)} iterations, loss {found[0]:.4f} to {found[-1]:.4f}, largest difference to the processor {gap:.1e}")
END
