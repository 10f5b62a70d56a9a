"""What train_gpu.py measures to hold speed, memory and the planner against their aims; each row has its question."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.gpu_cases import DETERMINISTIC, LORA_8B, NO_MARGIN, ONE_CHUNK, PLAIN, PROFILED, SFT, TP2_PP2, Case

DEFER = "--defer-embedding-wgrad-compute --wgrad-deferral-limit 8"
"""On the last stage the LM head's weight gradient waits for the bubble: eight micro batches' logits are kept."""
TP2_8B = replace(PLAIN, name="", size="8B", tp=2, sp=True, batch=8, steps=6, processes=2, seconds=75)
TP2_L8 = replace(TP2_8B, size="8B-L8", pr="fp8", batch=16, seconds=60)
ALL_PASSES = "--fewer-passes"
"""No name after it: none is left out."""
HOST = replace(TP2_L8, seq=1024, steps=10)
EAGER, REPLAYED = {"MP_CUDA_GRAPHS": "none"}, {"MP_CUDA_GRAPHS": "layers"}
HOST_AT = {"BENCH_HOST": "8"}
DP4 = replace(PLAIN, name="", size="8B", batch=64, steps=5, processes=4)
PIPELINE = replace(TP2_PP2, name="8B-tp2-pp2-default", steps=5)
WIDE = replace(PLAIN, name="", tp=4, sp=True, batch=4, steps=6, processes=4, seconds=100)
LORA_70B = replace(LORA_8B, tp=4, sp=True, processes=4, batch=16)
RANKED = replace(PLAIN, size="8B-L8", batch=32, processes=4, seconds=60)
SAVED = replace(PLAIN, size="8B-L16", steps=31, save_interval=15, processes=4, seconds=110)
SAVED_ONCE = replace(SAVED, steps=18, save_interval=9, seconds=60)
"""Its last save counts for no step."""

RING_ALL = {"MP_TP_OVERLAP": "ring-all"}
NO_OVERLAP = {"MP_TP_OVERLAP": "none"}
SAVES = {"MP_BACKGROUND_SAVE": "true"}
FUSED, FLASH = {"MP_ATTENTION_BACKEND": "fused"}, {"MP_ATTENTION_BACKEND": "flash"}
FUSED_50 = replace(PLAIN, batch=4, start="random", steps=50, seconds=90, env=FUSED)
CONNECTIONS = {"BENCH_CONNECTIONS": "32"}
CP2_L8 = replace(PLAIN, size="8B-L8", cp=2, processes=2, steps=14, seconds=60)
TP2_L8_BF16 = replace(CP2_L8, cp=1, tp=2, sp=True)
GATHER = "--cp-comm-type all_gather"
KEEPS_ONE = {"MP_KEEP_CHECKPOINTS": "1", **SAVES}
"""Asked for: a machine whose RAM grows while it is used looks too small for copies of a checkpoint."""


def _wide(name: str, layers: dict[tuple[str, str], int]) -> list[Case]:
    """Models of this width with so many layers, by size and precision."""
    return [
        replace(WIDE, name=f"{name}-{size}-L{count}-{pr}", size=f"{size}-L{count}", pr=pr)
        for (size, pr), count in layers.items()
    ]


IN_RAM = replace(PLAIN, name="offload", size="8B", batch=16, offload="auto", steps=4, seconds=300)

TARGETS: dict[str, list[Case]] = {
    "four-dp": [  # what data parallelism over four costs
        replace(DP4, name="8B-dp4-bf16"),
        replace(DP4, name="8B-dp4-fp8", pr="fp8", steps=6),
    ],
    "beside-bridge": [  # with the batch that benchmarks/bridge.py takes beside it
        replace(DP4, name="8B-dp4-b32-bf16", batch=32, steps=6),
        replace(DP4, name="8B-dp4-b32-fp8", batch=32, steps=6, pr="fp8"),
    ],
    "four-pipeline": [  # the default, two chunks (one until 2026-11-27); one, four; LM head's gradient in the bubble
        PIPELINE,
        replace(PIPELINE, name="8B-tp2-pp2-one-chunk", env=ONE_CHUNK),
        replace(PIPELINE, name="8B-tp2-pp2-4-chunks", env={"MP_VP_CHUNKS": "4"}),
        replace(PIPELINE, name="8B-tp2-pp2-defer", megatron=DEFER, env=ONE_CHUNK, reference="8B-tp2-pp2-one-chunk"),
    ],
    "tp2-fp8": [  # does overlapped communication pay in fp8 at 32 layers?
        replace(TP2_8B, name="8B-tp2-fp8", pr="fp8", env=NO_OVERLAP | EAGER),
        replace(TP2_8B, name="8B-tp2-fp8-ring-all", pr="fp8", env=RING_ALL | EAGER, reference="8B-tp2-fp8"),
    ],
    "tp2-fp8-why": [  # 8 layers; on 2026-11-27, beside other work and with 32 layers, overlapped was 8 % slower
        replace(TP2_L8, name="tp2-L8-fp8", env=NO_OVERLAP),
        replace(TP2_L8, name="tp2-L8-fp8-ring-all", env=RING_ALL, reference="tp2-L8-fp8"),
        replace(TP2_L8, name="tp2-L8-fp8-all-passes", env=NO_OVERLAP, megatron=ALL_PASSES, reference="tp2-L8-fp8"),
        replace(
            TP2_L8, name="tp2-L8-fp8-ring-all-all-passes", env=RING_ALL, megatron=ALL_PASSES, reference="tp2-L8-fp8"
        ),
    ],
    "flash": [  # FlashAttention 4 (auto) beside cuDNN (fused); the first two differ by run-to-run rounding only
        replace(FUSED_50, name="flash-fused"),
        replace(FUSED_50, name="flash-fused-again", reference="flash-fused"),
        replace(FUSED_50, name="flash-auto", env={}, reference="flash-fused"),
        replace(SFT, name="flash-sft-fused", env=FUSED),
        replace(SFT, name="flash-sft-auto", reference="flash-sft-fused"),
        replace(PLAIN, name="flash-rows-fused", seq=4096, micro=2, env=FUSED),
        replace(PLAIN, name="flash-rows-flash", seq=4096, micro=2, env=FLASH, reference="flash-rows-fused"),
    ],
    "flash-two": [  # under context and tensor parallelism
        replace(CP2_L8, name="cp2-L8-fused", env=FUSED),
        replace(CP2_L8, name="cp2-L8-auto", reference="cp2-L8-fused"),
    ],
    "cp2-why": [  # what of CP2's step is not matmuls and attention; 8 layers
        replace(CP2_L8, name="cp2-L8", env=PROFILED),
        replace(CP2_L8, name="cp2-L8-32", env=CONNECTIONS, reference="cp2-L8"),
        replace(CP2_L8, name="cp2-L8-gather", megatron=GATHER, env=PROFILED, reference="cp2-L8"),
        replace(CP2_L8, name="cp2-L8-gather-32", megatron=GATHER, env=CONNECTIONS, reference="cp2-L8"),
    ],
    "tp2-why": [  # the same of TP2's; overlapped by default
        replace(TP2_L8_BF16, name="tp2-L8-bf16", env=PROFILED),
        replace(TP2_L8_BF16, name="tp2-L8-bf16-32", env=CONNECTIONS, reference="tp2-L8-bf16"),
        replace(TP2_L8_BF16, name="tp2-L8-bf16-margin", env=NO_MARGIN, reference="tp2-L8-bf16"),
        replace(TP2_L8_BF16, name="tp2-L8-bf16-32-margin", env=CONNECTIONS | NO_MARGIN, reference="tp2-L8-bf16"),
        replace(TP2_L8_BF16, name="tp2-L8-fp8-32", pr="fp8", env=CONNECTIONS, batch=16),
        replace(TP2_L8_BF16, name="tp2-L8-fp8-again", pr="fp8", batch=16),
    ],
    "tp2-fp8-ways": [  # which of fp8's communication pays to overlap? its matmuls are short, and shorter in pieces
        replace(TP2_L8, name="tp2-ways-none", env=NO_OVERLAP),
        replace(TP2_L8, name="tp2-ways-ring-all", env=RING_ALL | PROFILED),
        *(
            replace(TP2_L8, name=f"tp2-ways-{way}", env={"MP_TP_OVERLAP": how}, megatron=flags)
            for way, how, flags in (
                ("ring", "ring", ""),
                ("pipeline", "pipeline", ""),
                ("no-ag", "ring-all", "--no-tp-comm-overlap-ag"),
                ("no-rs", "ring-all", "--no-tp-comm-overlap-rs"),
            )
        ),
    ],
    "host-two": [  # short rows: the GPU waits for the host, so a step is the host's time
        replace(HOST, name="host-tp2-none", env=NO_OVERLAP | HOST_AT | EAGER),
        replace(HOST, name="host-tp2-ring-all", env=RING_ALL | HOST_AT | EAGER),
    ],
    "host-more": [
        replace(HOST, name="host-tp2-none-fused", env=NO_OVERLAP | HOST_AT | EAGER | FUSED),
        replace(HOST, name="host-tp1", tp=1, sp=False, processes=1, env=HOST_AT),
        replace(HOST, name="host-tp2-bf16", pr="bf16", env=NO_OVERLAP | HOST_AT | EAGER),
    ],
    "host-four": [  # DP2 TP2 in fp8: 20 % slower than TP2 alone on 2026-11-27
        replace(TP2_L8, name="dp2-tp2-L8-fp8", batch=32, processes=4, env=NO_OVERLAP | PROFILED),
        replace(HOST, name="host-dp2-tp2", batch=32, processes=4, env=NO_OVERLAP | HOST_AT | EAGER),
        replace(TP2_L8, name="dp2-tp2-L8-fp8-32", batch=32, processes=4, env=NO_OVERLAP | CONNECTIONS),
        replace(TP2_L8, name="dp2-tp2-L8-fp8-plain-adam", batch=32, processes=4, env=NO_OVERLAP, do=False),
    ],
    "tp2-graphs": [  # a layer's kernels started by one call: in FP8 the host is slower than the GPU at TP2
        replace(TP2_8B, name="8B-tp2-fp8-graphs", pr="fp8", env=REPLAYED),
        replace(TP2_8B, name="8B-tp2-fp8-graphs-alone", pr="fp8", env=NO_OVERLAP | REPLAYED),
        replace(TP2_8B, name="8B-tp2-bf16-graphs", batch=16),
        replace(TP2_8B, name="8B-tp2-bf16-eager", batch=16, env=EAGER, reference="8B-tp2-bf16-graphs"),
    ],
    "tp2-graphs-L8": [
        replace(TP2_L8, name="tp2-L8-fp8-graphs-alone", env=NO_OVERLAP | REPLAYED),
        replace(TP2_L8, name="tp2-L8-fp8-graphs", env=REPLAYED),
        replace(TP2_L8, name="tp2-L8-bf16-graphs", pr="bf16"),
    ],
    "tp2-graphs-exact": [  # 8 layers, sums in one order: the same bits?
        replace(TP2_L8, name="graphs-exact", env=DETERMINISTIC | REPLAYED),
        replace(TP2_L8, name="graphs-exact-eager", env=DETERMINISTIC | EAGER, reference="graphs-exact"),
    ],
    "cp2-graphs": [  # not the default: not tried before
        replace(CP2_L8, name="cp2-L8-graphs", steps=10, env=REPLAYED),
        replace(CP2_L8, name="cp2-L8-eager", steps=10, reference="cp2-L8-graphs"),
    ],
    "dp2-why": [
        replace(PLAIN, name="8B-dp2-bf16", size="8B", batch=32, steps=6, processes=2, seconds=100, env=PROFILED)
    ],
    "wide-141": [  # as many layers as the plan lets on 141 GB, less two of 70B and one of 405B
        *_wide("wide", {("70B", "fp8"): 42, ("70B", "bf16"): 48, ("405B", "fp8"): 10, ("405B", "bf16"): 13}),
        replace(WIDE, name="wide-70B-L42-fp8-b8", size="70B-L42", pr="fp8", batch=8, steps=5),
        replace(WIDE, name="wide-70B-L42-fp8-none", size="70B-L42", pr="fp8", env=NO_OVERLAP),
    ],
    "wide-80": _wide(  # the same on 80 GB
        "wide", {("70B", "fp8"): 22, ("70B", "bf16"): 25, ("405B", "fp8"): 5, ("405B", "bf16"): 6}
    ),
    "save-held": [  # one save each, in RAM that grows: with copies on the GPU first, and waiting for those in RAM
        replace(SAVED_ONCE, name="save-L16-dp4-held", env=SAVES),
        replace(SAVED_ONCE, name="save-L16-dp4-waits", env={**SAVES, "BENCH_HOLD_NOTHING": "1"}),
    ],
    "save-four": [  # in RAM that grows, then in RAM that is there, and at the end
        replace(SAVED, name="save-L16-dp4-thrice", env=KEEPS_ONE),
        replace(SAVED, name="save-L16-tp2-pp2-thrice", tp=2, pp=2, sp=True, env=KEEPS_ONE),
    ],
    "lora-70B-four": [  # peak against plan under TP4; --scratch in /dev/shm: the bases have 38 and 141 GB
        replace(LORA_70B, name="lora-70B-L20-tp4-bf16", size="70B-L20"),
        replace(LORA_70B, name="lora-70B-L20-tp4-fp8", size="70B-L20", pr="fp8"),
    ],
    "lora-70B-whole": [replace(LORA_70B, name="lora-70B-tp4-bf16", size="70B", micro=1, steps=5, seconds=240)],
    "lora-70B-80": [  # most of one 80 GB card; the base has 32 GB
        replace(LORA_8B, name="lora-70B-L16-bf16", size="70B-L16", batch=16, steps=5),
        replace(LORA_8B, name="lora-70B-L16-fp8", size="70B-L16", batch=16, steps=5, pr="fp8"),
    ],
    "sft-cut": [  # 8 of 8B's layers, for cards that do not hold all
        replace(SFT, name="sft-L8-bf16", size="8B-L8", steps=8),
        replace(SFT, name="sft-L8-fp8", size="8B-L8", steps=8, pr="fp8"),
    ],
    "advice-80": [  # what the plan advises where 8B does not fit one card, or four under DP
        replace(IN_RAM, name="8B-advice-offload"),
        replace(IN_RAM, name="8B-advice-offload-fp8", pr="fp8", ac="full"),
    ],
    "offload": [  # all of the optimizer in RAM, beside the same run with it on the GPU
        replace(PLAIN, name="L8-offload-none", size="8B-L8", batch=16),
        replace(PLAIN, name="L8-offload-all", size="8B-L8", batch=16, offload="static", reference="L8-offload-none"),
        replace(
            PLAIN,
            name="L8-offload-megatron",
            size="8B-L8",
            batch=16,
            offload="static",
            env={"BENCH_MEGATRONS_OFFLOAD": "1"},
            reference="L8-offload-none",
        ),
        replace(PLAIN, name="L8-offload-all-fp8", size="8B-L8", batch=16, offload="static", pr="fp8"),
    ],
    "fp8-casts": [  # bf16 weights, and their 8 bits beside them
        replace(PLAIN, name="fp8-do-false", pr="fp8", do=False),
    ],
    "advice-80-four": [
        replace(DP4, name="8B-advice-tp2-dp2-bf16", tp=2, sp=True, batch=32),
        replace(DP4, name="8B-advice-tp2-dp2-fp8", tp=2, sp=True, pr="fp8", batch=32, env=REPLAYED),
        replace(DP4, name="8B-advice-tp2-dp2-fp8-eager", tp=2, sp=True, pr="fp8", batch=32, env=EAGER),
    ],
    "rank-four": [  # the same 32 sequences in every layout of four
        replace(RANKED, name="rank4-dp4"),
        replace(RANKED, name="rank4-dp2-tp2", tp=2, sp=True),
        replace(RANKED, name="rank4-dp2-pp2", pp=2),
        replace(RANKED, name="rank4-dp2-cp2", cp=2),
        replace(RANKED, name="rank4-tp4", tp=4, sp=True),
        replace(RANKED, name="rank4-tp2-pp2", tp=2, pp=2, sp=True),
        replace(RANKED, name="rank4-pp4", pp=4),
        replace(RANKED, name="rank4-dp4-fp8", pr="fp8"),
        replace(RANKED, name="rank4-dp2-tp2-fp8", tp=2, sp=True, pr="fp8"),
    ],
}
