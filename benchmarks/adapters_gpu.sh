#!/bin/sh
# Adapters over 8B's width, LAYERS of it, killed with SIGKILL while training and started again by the same command: are the
# losses, gradient norms and the adapters at the end the bits of the undisturbed run? In each of PRECISIONS.
#   sh benchmarks/adapters_gpu.sh FOLDER TOKENIZER DATA
# SIZE=tiny LAYERS=2 ON=cpu PRECISIONS=fp32 SEQ=64 VOCAB=512 tries it without a GPU. TP=2 takes two GPUs.
set -u
cd "$(dirname -- "$0")/.." || exit 1
folder=$1 tokenizer=$2 data=$3 tp=${TP:-1} seq=${SEQ:-1024}
export NVTE_ALLOW_NONDETERMINISTIC_ALGO=0 # else attention's gradient differs from run to run
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
begin=$(date +%s)
say() { printf '== %s s: %s\n' $(($(date +%s) - begin)) "$*"; }
driver() { # PRECISION OUTPUT: forty iterations, a save every eighth
    sp=false
    [ "$tp" -gt 1 ] && sp=true
    MP_DEVICE=${ON:-cuda} MP_NPROC=$tp MP_LORA_RANK=16 MP_LORA_ALPHA=32 MP_EXPORT_HF=1 \
        sh examples/llama3_1/run_mcore_llama3_1.sh dsw auto 2 8 1e-3 1e-4 "$seq" "$seq" "$1" "$tp" 1 1 $sp true true \
        false false false 8 "$data" none "$folder/hf" $((40 * 8 * seq)) $((8 * seq)) "$2" >>"$2.txt" 2>&1
}
steps() { if [ -e "$1/metrics.jsonl" ]; then grep -c '"loss"' "$1/metrics.jsonl" || true; else echo 0; fi; }
if ! [ -d "$folder/hf" ]; then
    sh toolkits/python.sh -m megatron_patch.checkpoint.random_model "${SIZE:-8B}" "$folder/hf" --layers "${LAYERS:-4}" \
        --vocab-size "${VOCAB:-32768}" --tokenizer "$tokenizer" >"$folder/hf.txt" 2>&1 || { tail "$folder/hf.txt"; exit 1; }
    say "$(tail -1 "$folder/hf.txt")"
fi
failed=0
for precision in ${PRECISIONS:-fp8 bf16}; do
    whole=$folder/whole-$precision killed=$folder/killed-$precision
    rm -rf "$whole" "$killed" "$whole.txt" "$killed.txt"
    driver "$precision" "$whole"
    say "$precision, undisturbed: status $?, $(steps "$whole") steps, a checkpoint of $(du -sk "$whole"/checkpoints/iter_0000040 | cut -f1) KiB"
    driver "$precision" "$killed" &
    started=$!
    while [ "$(steps "$killed")" -lt 12 ] && kill -0 $started 2>/dev/null; do sleep 0.05; done
    pkill -9 -f -- "--output-dir $killed" # the ranks, and torchrun above them: all have the folder in their command
    wait $started
    status=$?
    say "$precision, killed in step $(($(steps "$killed") + 1)): status $status"
    [ $status -ne 0 ] || failed=1 # it had ended before
    driver "$precision" "$killed"
    say "$precision, the same command: status $?; $(grep -h 'resuming from' "$killed.txt" | tail -1)"
    sh toolkits/python.sh - "$whole" "$killed" <<'END' || failed=1
import json, pathlib, sys
def steps(folder):
    lines = map(json.loads, (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines())
    return {line["iteration"]: (line["loss"], line["grad_norm"]) for line in lines if "loss" in line}
def adapter(folder):
    return (pathlib.Path(folder) / "adapter" / "adapter_model.safetensors").read_bytes()
whole, killed = steps(sys.argv[1]), steps(sys.argv[2])
different = [step for step in sorted(whole) if whole[step] != killed.get(step)]
same = adapter(sys.argv[1]) == adapter(sys.argv[2])
print(f"   {len(whole)} steps, loss {whole[1][0]:.4f} to {whole[max(whole)][0]:.4f};",
      "DIFFERENT in steps " + " ".join(map(str, different)) if different else "all steps have the same bits;",
      "the adapters too" if same else "the adapters DIFFER")
sys.exit(bool(different) or not same or len(whole) != 40)
END
done
say end
exit $failed
